"""What the model registry is told: the graph and the engines of the recommended network."""

from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from pipeline.artifacts import artifacts_dir, metrics_path, read_json
from pipeline.params import Params
from pipeline.records import run_name
from pipeline.report import SUMMARY
from pipeline.runs import Comparison, Release
from pipeline.shipping.selection import Selection, select

STAGES = ("heal", "precision", "build", "verify")


def read_release(params: Params, comparison: Comparison) -> Release | None:
    """Return what is recommended as it is to be registered; None where nothing is.

    Its graph is the one that the recommended backend takes. Its engines are those that a bundle
    ships, and the one that was timed.

    Raises:
        ArtifactError: a metrics file is missing or damaged, or a graph or an engine is not there.
        ParityError: the graph has failed the parity ladder since.
    """
    chosen = read_json(SUMMARY)["recommendation"]["chosen"]
    if chosen is None or comparison.recommended is None:
        return None
    variant, backend = chosen["variant"], chosen["backend"]
    facts = {stage: read_json(metrics_path(stage, variant)) for stage in STAGES}
    selection = select(facts, chosen["level"], chosen["precision"])
    folder = artifacts_dir("precision", variant)
    graphs = {graph.backend: folder / graph.file for graph in selection.graphs}
    release = Release(
        name=params.name,
        title=run_name(chosen),
        run=comparison.recommended,
        reason=comparison.reason,
        graph=graphs.get(backend, graphs[None]),
        engines=_engines(facts["build"], selection, backend),
        tags={key: str(chosen[key]) for key in ("variant", "level", "precision", "backend")},
    )
    for file in (release.graph, *release.engines.values()):
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; `dvc checkout` or `dvc pull` brings it")
    return release


def _engines(build: dict[str, Any], selection: Selection, backend: str) -> dict[str, Path]:
    """Return the engines by their names in the registry."""
    built = next(entry for entry in build["levels"] if entry["level"] == selection.level)
    own = built["engines"][selection.precision]
    files = {str(engine.backend): engine.file for engine in selection.engines}
    files[backend] = own[backend]["file"]
    folder = artifacts_dir("build", selection.variant)
    return {
        f"engines/{name}{Path(file).suffix}": folder / file for name, file in sorted(files.items())
    }
