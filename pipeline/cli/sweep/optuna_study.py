"""Let Optuna choose variants: λ, estimator and plan, for validation accuracy against latency.

A trial is a variant: trained, planned, built and verified as any other, and kept in params.yaml.
Its latency is a ratio to that of the first variant of params.yaml, timed in turn with it: trials
of different hours are compared by nothing else. Test data is not looked at. The study is a SQLite
file that later runs go on with; it is another one where anything but the variants has changed in
params.yaml (the extra `sweep`).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.errors import ArtifactError, BackendUnavailable, ParamsError
from pipeline.benchmark.proven_engines import proven_engines
from pipeline.benchmark.savings import reference
from pipeline.benchmark.short_pass import ratios
from pipeline.cli.sweep.grid import Settings
from pipeline.cli.sweep.jobs import SWEEPS, Message
from pipeline.cli.sweep.new_variants import add_variants
from pipeline.cli.text_table import Column, print_table
from pipeline.core.artifacts import artifacts_dir, digest, metrics_path
from pipeline.core.params import Params, load_params
from pipeline.core.records import read_record
from pipeline.data.dataset import validation_sample
from pipeline.plan.records import HealMetrics
from pipeline.report.failures import Failure

STORAGE = SWEEPS / "optuna.db"
LAMBDA = "train.penalty.lambda"
LAMBDA_RANGE = (0.1, 10.0)  # drawn on a logarithmic scale
AXES: Mapping[str, Sequence[Any]] = {
    "train.penalty.estimator": ["random", "power"],
    "plan.search": ["one_shot", "greedy"],
    "plan.max_accuracy_drop_pct": [0.5, 1.0, 2.0, 5.0],
}

Run = Callable[[Params, Sequence[str]], Mapping[str, Failure]]  # variants; what failed of them


def search(
    axes: Mapping[str, Sequence[Any]],
    run: Run,
    message: Message,
    *,
    trials: int,
    at_once: int,
    minutes: float = math.inf,
) -> Any:
    """Bring the study to so many trials and return it.

    Args:
        axes: ``{path of a key: values}`` to choose from, laid over `AXES`; λ is drawn from
            `LAMBDA_RANGE` where it is not among them.
        run: brings variants up to date.
        message: is called for a trial that ran and has no values; it fails, the study goes on.
        trials: how many the study is to have, those of earlier runs included.
        at_once: how many are chosen and run together.
        minutes: after so long none is begun.

    Raises:
        BackendUnavailable: Optuna is not installed.
        ParamsError: a value cannot be chosen, or makes no valid variant.
    """
    try:
        import optuna
    except ImportError as e:
        raise BackendUnavailable(f"optuna is not installed ({e}); pip install '.[sweep]'") from e
    space = distributions({**AXES, **axes})
    study = open_study(load_params(), space)
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline and (batch := _batch(study, space, trials, at_once)):
        names = {number: f"{study.study_name}-{number}" for number in batch}
        add_variants({names[number]: settings for number, settings in batch.items()})
        params = load_params()
        failed = run(params, [next(iter(params.variants)), *names.values()])
        for number, name in names.items():
            values = None if name in failed else _values(name, params, message)
            study.tell(number, values, state=None if values else optuna.trial.TrialState.FAIL)
    return study


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
    fixed = params.model_dump(mode="json", by_alias=True, exclude={"variants"})
    name = f"trial-{digest([fixed, {path: repr(one) for path, one in space.items()}])[:6]}"
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

    left = study.get_trials(states=[TrialState.RUNNING])
    if not left:
        count = min(at_once, trials - len(study.trials))
        left = [study.ask(dict(space)) for _ in range(count)]
    return {trial.number: _settings(trial.params) for trial in left}


def _settings(drawn: Mapping[str, Any]) -> Settings:
    """Return λ with three digits: more say nothing, and params.yaml is read by people."""
    return {path: float(f"{x:.3g}") if path == LAMBDA else x for path, x in drawn.items()}


def _values(variant: str, params: Params, message: Message) -> tuple[float, float] | None:
    try:
        return objectives(variant, params)
    except ArtifactError as e:
        message(f"no values for the study: {e}")
        return None


def objectives(variant: str, params: Params) -> tuple[float, float]:
    """Return validation accuracy in percent and relative latency of what the variant ships.

    That is its chosen level in the precision of bundles at the largest batch size, on
    `choose.backend` or the fastest, against level 0 in fp32 of the first variant.

    Raises:
        ArtifactError: it cannot be timed here, or not against the first variant.
    """
    level = read_record(metrics_path("heal", variant), HealMetrics).chosen_level
    backend, precision = params.choose.backend, params.bundle.precision
    first, *_ = params.variants
    references = proven_engines([first], params.build).proven
    shipped = [
        one
        for one in proven_engines([variant], params.build).proven
        if (one.level, one.precision) == (level, precision) and backend in (None, one.backend)
        if any((r.level, r.precision, r.backend) == (0, "fp32", one.backend) for r in references)
    ]
    if not shipped:
        where = f" on {backend}" if backend else ""
        raise ArtifactError(
            f"{variant} cannot be timed in {precision}{where} against {first} in fp32; set "
            "bundle.precision or choose.backend to what runs here"
        )
    images = validation_sample(artifacts_dir("prepare"), params.benchmark.batch_sizes[-1])
    timed = ratios(
        [reference(references, one.backend) for one in shipped] + shipped, images, params.benchmark
    )
    ratio, fastest = min((timed[one].ratio, number) for number, one in enumerate(shipped))
    return shipped[fastest].val_accuracy_pct, ratio


def print_front(study: Any) -> None:
    """Print the trials that no other beats in both objectives, the fastest first.

    Latencies are shares of the first variant's.
    """
    columns = [
        Column("variant", lambda trial: f"{study.study_name}-{trial.number}", left=True),
        Column("val %", lambda trial: f"{trial.values[0]:.2f}"),
        Column("× first", lambda trial: f"{trial.values[1]:.3f}"),
        Column("settings", lambda trial: _in_words(_settings(trial.params)), left=True),
    ]
    print_table(columns, sorted(study.best_trials, key=lambda trial: trial.values[1]))


def _in_words(settings: Settings) -> str:
    return ", ".join(f"{path} {value}" for path, value in settings.items())
