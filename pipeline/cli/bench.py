"""Time all variants in one interleaved run: one table, and a gate on accuracy.

Times level 0, the chosen and the deepest level of every variant that can run here. Writes
bench.json (as the stage `benchmark`), bench.csv and bench.md. With --min-accuracy every timed
engine at its variant's chosen level must reach that validation accuracy.

examples:
  python -m pipeline bench
  python -m pipeline bench --variant dense --variant lacoot --precision fp32
  python -m pipeline bench --min-accuracy 90 --backend onnxruntime --batch 1 --batch 128

It ends with 3 where the gate is not met.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import click

from models.errors import ParamsError, near_matches
from pipeline.benchmark.proven_engines import Engines, proven_engines
from pipeline.benchmark.records import EngineKey
from pipeline.cli.exit_codes import DONE, NOTHING_FITS
from pipeline.core.artifacts import REPORTS, artifacts_dir, metrics_path, replace_file
from pipeline.core.params import Benchmark, Params, load_params
from pipeline.core.records import read_record, write_record
from pipeline.plan.records import HealMetrics


@click.command(help=__doc__)
@click.option("--variant", "-v", multiple=True, help="All by default; ratios relate to the first.")
@click.option("--precision", multiple=True, help="All by default.")
@click.option("--backend", multiple=True, help="All that can run here by default.")
@click.option("--batch", type=int, multiple=True, help="benchmark.batch_sizes by default.")
@click.option("--all-levels", is_flag=True, help="Not only level 0, the chosen and the deepest.")
@click.option("--min-accuracy", type=float, metavar="PCT", help="Floor of the gate.")
@click.option("--out", type=click.Path(path_type=Path), default=REPORTS, help="Folder to write to.")
def command(
    *,
    variant: Sequence[str],
    precision: Sequence[str],
    backend: Sequence[str],
    batch: Sequence[int],
    all_levels: bool,
    min_accuracy: float | None,
    out: Path,
) -> int:
    """Measure, write the three files and print the table."""
    from pipeline.benchmark.measurement import benchmark
    from pipeline.benchmark.table import as_csv, as_markdown
    from pipeline.benchmark.timing.protocol import machine
    from pipeline.data.dataset import validation_sample
    from pipeline.engines.backends.probe import probe

    params = load_params()
    variants = _known(variant, params.variants, "variant")
    settings = timing(params, batch)
    healed = {name: read_record(metrics_path("heal", name), HealMetrics) for name in variants}
    chosen = {name: one.chosen_level for name, one in healed.items()}
    deepest = {name: one.levels[-1].level for name, one in healed.items()}
    proven = proven_engines(variants, params.build)
    found = selected(proven, precision, backend, [] if all_levels else [chosen, deepest])
    met, text = (True, "") if min_accuracy is None else gate(found, chosen, min_accuracy)
    images = validation_sample(artifacts_dir("prepare"), max(settings.batch_sizes))
    metrics = benchmark(found, images, settings, machine(probe()))  # artifacts may be from another
    table = as_markdown(metrics, chosen.items(), text)
    write_record(out / "bench.json", metrics)
    for name, content in (("bench.md", table), ("bench.csv", as_csv(metrics))):
        with replace_file(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    print(f"{table}\nwritten to {out}: bench.json, bench.csv, bench.md")
    return DONE if met else NOTHING_FITS


def timing(params: Params, batch_sizes: Sequence[int]) -> Benchmark:
    """Return how to time, with the batch sizes asked for.

    Raises:
        ParamsError: a batch size is not one that engines take.
    """
    sizes = sorted(set(batch_sizes or params.benchmark.batch_sizes))
    allowed = params.build.batch
    if batch_sizes and not allowed.min <= sizes[0] <= sizes[-1] <= allowed.max:
        raise ParamsError(
            f"batch sizes {sizes}: engines take {allowed.min} to {allowed.max} images, "
            "the range of build.batch"
        )
    return params.benchmark.model_copy(update={"batch_sizes": sizes})


def selected(
    found: Engines,
    precisions: Sequence[str],
    backends: Sequence[str],
    levels: Sequence[Mapping[str, int]],
) -> Engines:
    """Return the engines to time.

    Args:
        found: all of the variants that are wanted.
        precisions: all that there are where empty.
        backends: likewise.
        levels: of each variant, to be timed beside level 0; all where empty.

    Raises:
        ParamsError: no engine has a precision or backend of that name.
    """
    everything: list[EngineKey] = [*found.proven, *found.skipped]
    precisions = _known(precisions, {one.precision for one in everything}, "precision")
    names = {one.backend for one in everything} | found.not_available.keys()
    backends = _known(backends, names, "backend")

    def is_wanted(one: EngineKey) -> bool:
        at = not levels or one.level in {0, *(level[one.variant] for level in levels)}
        return at and one.precision in precisions and one.backend in backends

    return Engines(
        [one for one in found.proven if is_wanted(one)],
        [one for one in found.skipped if is_wanted(one)],
        {name: why for name, why in found.not_available.items() if name in backends},
    )


def gate(found: Engines, chosen: Mapping[str, int], min_accuracy_pct: float) -> tuple[bool, str]:
    """Hold what would ship against a floor of validation accuracy; return whether, and a sentence.

    Every timed engine at its variant's chosen level must reach it. Where there is none, nothing is
    proven and the gate is not met.
    """
    floor = f"{min_accuracy_pct:.2f} % validation accuracy"
    shipped = [one for one in found.proven if one.level == chosen[one.variant]]
    if not shipped:
        return False, f"Gate not met: no engine at a chosen level was timed to reach {floor}."
    below = [
        f"{one.network} {one.backend}: {one.val_accuracy_pct:.2f} %"
        for one in shipped
        if not one.val_accuracy_pct >= min_accuracy_pct  # what is no number reaches no floor
    ]
    if below:
        return False, f"Gate not met: below {floor}: {'; '.join(below)}."
    return True, f"Gate met: {len(shipped)} engines at the chosen levels reach {floor}."


def _known(names: Sequence[str], known: Collection[str], what: str) -> list[str]:
    """Return the names asked for, or all; `ParamsError` where one is unknown."""
    for name in names:
        if name not in known:
            hint = near_matches(name, known)
            raise ParamsError(f"no {what} {name!r}{hint}; there are {', '.join(sorted(known))}")
    return list(dict.fromkeys(names or known))
