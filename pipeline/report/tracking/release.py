"""What the model registry holds: the graph and the engines of the recommended network."""

from pathlib import Path

from models.errors import ArtifactError
from pipeline.bundle.selection import (
    Selection,
    VariantMetrics,
    read_metrics,
    require_proven,
    select,
)
from pipeline.core.artifacts import artifacts_dir
from pipeline.core.params import Params
from pipeline.engines.records import BuildMetrics
from pipeline.report.comparison import read_summary
from pipeline.report.tracking.runs import run_name
from pipeline.report.tracking.schema import Comparison, Release


def read_release(params: Params, comparison: Comparison) -> Release | None:
    """Return what is recommended as it is to be registered; None where nothing is.

    Its graph is the one that the recommended backend takes. Its engines are those that a bundle
    ships, and the one that was timed.

    Raises:
        ArtifactError: a metrics file is missing or damaged, or a graph or an engine is not there or
            not the one that was proven.
        ParityError: the graph has failed the parity chain since.
    """
    chosen = read_summary().recommendation.chosen
    if chosen is None or comparison.recommended is None:
        return None
    metrics = read_metrics(chosen.variant)
    selection = select(metrics, chosen.level, chosen.precision)
    folder = artifacts_dir("precision", chosen.variant)
    graphs = {g.record.backend: folder / g.record.file for g in selection.graphs}
    release = Release(
        name=params.name,
        title=run_name(chosen.network),
        run=comparison.recommended,
        reason=comparison.reason,
        graph=graphs.get(chosen.backend, graphs[None]),
        engines=_engines(metrics.build, selection, chosen.backend),
        tags={
            key: str(getattr(chosen, key)) for key in ("variant", "level", "precision", "backend")
        },
    )
    for file in (release.graph, *release.engines.values()):
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; `dvc checkout` or `dvc pull` brings it")
    _require_proven(metrics, selection, set(release.engines.values()))
    return release


def _require_proven(metrics: VariantMetrics, selection: Selection, engines: set[Path]) -> None:
    folder = artifacts_dir("precision", selection.variant)
    for graph in selection.graphs:
        require_proven(folder / graph.record.file, graph.check)
    folder = artifacts_dir("build", selection.variant)
    for engine in metrics.build.engines:
        if (file := folder / engine.file) in engines:
            of = (engine.level, "engine", engine.precision, engine.backend)
            require_proven(file, metrics.verify.find(*of))


def _engines(build: BuildMetrics, selection: Selection, backend: str) -> dict[str, Path]:
    """Return the engines by their names in the registry."""
    shipped = {engine.record.backend for engine in selection.engines} | {backend}
    of = (selection.level, selection.precision)
    engines = [e for e in build.engines if (e.level, e.precision) == of and e.backend in shipped]
    folder = artifacts_dir("build", selection.variant)
    return {
        f"engines/{engine.backend}{Path(engine.file).suffix}": folder / engine.file
        for engine in sorted(engines, key=lambda engine: engine.backend)
    }
