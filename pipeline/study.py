"""Let Optuna choose variants: λ, estimator and plan, for validation accuracy against latency.

A trial is a variant: trained, planned, built, verified and timed as any other, and kept in
params.yaml. Test data is not looked at. The study is a SQLite file that later runs go on with; it
is another one where anything but the variants has changed in params.yaml (the extra `sweep`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.errors import ArtifactError, BackendUnavailable, ParamsError
from pipeline.artifacts import digest, metrics_path, read_json
from pipeline.failures import Failure
from pipeline.grid import Settings
from pipeline.new_variants import add_variants
from pipeline.params import Params, load_params
from pipeline.report import STAGES, summary_rows
from pipeline.rows import engine_accuracy_pct
from pipeline.variant_run import SWEEPS

STORAGE = SWEEPS / "optuna.db"
LAMBDA = "train.penalty.lambda"
LAMBDA_RANGE = (0.1, 10.0)  # drawn on a logarithmic scale
AXES: Mapping[str, Sequence[Any]] = {
    "train.penalty.estimator": ["random", "power"],
    "plan.search": ["one_shot", "greedy"],
    "plan.max_accuracy_drop_pct": [0.5, 1.0, 2.0, 5.0],
}

Run = Callable[[Params, Sequence[str]], Mapping[str, Failure]]  # variants; what failed of them
Tell = Callable[[str], None]


def require_optuna() -> None:
    """Raise `BackendUnavailable` where the package is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as e:
        raise BackendUnavailable(f"optuna is not installed ({e}); pip install '.[sweep]'") from e


def search(
    axes: Mapping[str, Sequence[Any]],
    run: Run,
    tell: Tell,
    *,
    trials: int,
    at_once: int,
    timeout_s: float | None = None,
) -> list[str]:
    """Bring the study to so many trials and return its Pareto front as lines of a table.

    Args:
        axes: ``{path of a key: values}`` to choose from, laid over `AXES`; λ is drawn from
            `LAMBDA_RANGE` where it is not among them.
        run: brings variants up to date.
        tell: is told of a trial that ran and has no values; it fails, and the study goes on.
        trials: how many the study is to have, those of earlier runs included.
        at_once: how many are chosen and run together.
        timeout_s: after so long none is begun.

    Raises:
        BackendUnavailable: Optuna is not installed.
        ParamsError: a value cannot be chosen, or makes no valid variant.
    """
    require_optuna()
    space = distributions({**AXES, **axes})
    study = open_study(load_params(), space)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while deadline is None or time.monotonic() < deadline:
        batch = _batch(study, space, trials, at_once)
        if not batch:
            break
        names = {number: f"{study.study_name}-{number}" for number in batch}
        add_variants({names[number]: settings for number, settings in batch.items()})
        params = load_params()
        failed = run(params, list(names.values()))
        for number, name in names.items():
            _conclude(study, number, None if name in failed else _values(name, params, tell))
    return front(study)


def distributions(axes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return what Optuna draws each key from.

    Raises:
        ParamsError: a value is a list or a map.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    for path, values in axes.items():
        for value in values:
            if isinstance(value, list | dict):
                raise ParamsError(f"{path}: --optuna chooses numbers and words, not {value}")
    drawn = FloatDistribution(*LAMBDA_RANGE, log=True)
    chosen = {path: CategoricalDistribution(values) for path, values in axes.items()}
    return {LAMBDA: drawn, **chosen}


def open_study(params: Params, space: Mapping[str, Any]) -> Any:
    """Return the study of these parameters and this space, with the trials that it has."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    STORAGE.parent.mkdir(parents=True, exist_ok=True)
    settled = params.model_dump(mode="json", by_alias=True, exclude={"variants"})
    name = f"trial-{digest([settled, {path: repr(one) for path, one in space.items()}])[:6]}"
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{STORAGE}",
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )
    # A seed that is the same in every run would draw the first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    return study


def _batch(study: Any, space: Mapping[str, Any], trials: int, at_once: int) -> dict[int, Settings]:
    """Return the trials to run now: those that a killed run has left, else new ones."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if trial.params.keys() != space.keys():  # killed while it was drawn
            study.tell(trial.number, state=TrialState.FAIL)
    left = study.get_trials(states=[TrialState.RUNNING])
    if not left:
        count = min(at_once, trials - len(study.trials))
        left = [study.ask(dict(space)) for _ in range(count)]
    return {trial.number: _settings(trial.params) for trial in left}


def _settings(drawn: Mapping[str, Any]) -> Settings:
    """Return λ with three digits: more say nothing, and params.yaml is read by people."""
    return {path: float(f"{x:.3g}") if path == LAMBDA else x for path, x in drawn.items()}


def _values(variant: str, params: Params, tell: Tell) -> tuple[float, float] | None:
    try:
        return objectives(variant, params)
    except ArtifactError as e:
        tell(f"no values for the study: {e}")
        return None


def _conclude(study: Any, number: int, values: tuple[float, float] | None) -> None:
    from optuna.trial import TrialState

    if values is None:
        study.tell(number, state=TrialState.FAIL)
    else:
        study.tell(number, values)


def objectives(variant: str, params: Params) -> tuple[float, float]:
    """Return validation accuracy in percent and p50 latency in ms of what the variant ships.

    That is its chosen level in the precision of bundles, on `choose.backend` or the fastest.

    Raises:
        ArtifactError: it was not timed.
    """
    metrics = {stage: read_json(metrics_path(stage, variant)) for stage in ("train", *STAGES)}
    backend, precision = params.choose.backend, params.bundle.precision
    timed = [
        (engine_accuracy_pct(row, name, "val"), latency["p50"])
        for row in summary_rows(variant, metrics)
        if row["chosen"] and row["precision"] == precision
        for name, latency in row["latency_ms"].items()
        if backend in (None, name)
    ]
    if not timed:
        where = f" on {backend}" if backend else ""
        raise ArtifactError(
            f"{variant} was not timed in {precision}{where}; set bundle.precision or "
            "choose.backend to what runs here"
        )
    return min(timed, key=lambda values: values[1])


def front(study: Any) -> list[str]:
    """Return the trials that no other beats in both objectives, the fastest first."""
    best = sorted(study.best_trials, key=lambda trial: trial.values[1])
    lines = [
        f"| {study.study_name}-{trial.number} | {trial.values[0]:.2f} | {trial.values[1]:.3f} | "
        + ", ".join(f"{path} {value}" for path, value in _settings(trial.params).items())
        + " |"
        for trial in best
    ]
    return ["| variant | val % | p50 ms | settings |", "| --- | --- | --- | --- |", *lines]
