"""What of a variant is shipped: one level in one precision, its proven graphs and engines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import ArtifactError, ParamsError, ParityError, near_matches

Facts = Mapping[str, Any]  # stage: the content of the variant's metrics file
Entry = Mapping[str, Any]

# Engines that run on other machines than the one that built them, raw, as stock tools load them.
PLANS = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Shipped:
    """A graph or an engine.

    Attributes:
        backend: for which it is meant; None for the graph that all others take.
        file: relative to the folder of its stage and variant.
        record: what the metrics of its stage say of it.
        rung: of the parity ladder.
    """

    backend: str | None
    file: str
    record: Entry
    rung: Entry

    @property
    def golden(self) -> str:
        """The name in golden.npz of a graph's logits."""
        return f"logits_{self.backend}" if self.backend else "logits"


@dataclass(frozen=True)
class Selection:
    """A level of a variant in one precision.

    Attributes:
        variant: its name.
        level: the number of removed blocks.
        removed: these blocks.
        precision: of the graphs.
        graphs: the common one first.
        engines: plans for GPUs.
        left_out: backends without an engine in the bundle, and why.
        rungs: the parity ladder of this level in this precision, whole.
    """

    variant: str
    level: int
    removed: list[str]
    precision: str
    graphs: list[Shipped]
    engines: list[Shipped]
    left_out: dict[str, str]
    rungs: list[Entry]

    @property
    def name(self) -> str:
        """The bundle's name, e.g. ``lacoot-l5-fp32``."""
        return f"{self.variant}-l{self.level}-{self.precision}"


def select(facts: Facts, level: int | None, precision: str) -> Selection:
    """Choose what to ship.

    Args:
        facts: the metrics of heal, precision, build and verify.
        level: how many blocks are removed; None for the chosen level.
        precision: of the graph.

    Raises:
        ParamsError: there is no such level, or no graph of that precision.
        ParityError: a rung of its parity ladder was not passed.
        ArtifactError: the metrics of two stages do not fit each other.
    """
    variant: str = facts["heal"]["variant"]
    number: int = facts["heal"]["chosen_level"] if level is None else level
    levels = [entry["level"] for entry in facts["heal"]["levels"]]
    if number not in levels:
        raise ParamsError(f"variant {variant!r} has no level {number}; there are {_listed(levels)}")
    what = f"variant {variant!r}, level {number}"
    typed, built, verified = (
        _level(facts[stage], number, stage, what) for stage in ("precision", "build", "verify")
    )
    graph = _graph(typed, precision, what)
    ladder = [rung for rung in verified["rungs"] if rung["precision"] in (None, precision)]
    _require_proven(ladder, precision, what)
    graphs, unproven = _proven(ladder, "precision", _graph_files(graph))
    engines, left_out = _engines(facts["build"], built, ladder, precision, unproven)
    return Selection(
        variant=variant,
        level=number,
        removed=list(typed["removed"]),
        precision=precision,
        graphs=graphs,
        engines=engines,
        left_out={**left_out, **{f"graph for {name}": why for name, why in unproven.items()}},
        rungs=ladder,
    )


def _level(metrics: Entry, number: int, stage: str, what: str) -> Entry:
    for entry in metrics["levels"]:
        if entry["level"] == number:
            found: Entry = entry
            return found
    raise ArtifactError(f"{what} is not in the metrics of {stage}; `dvc repro` adds it")


def _graph(typed: Entry, precision: str, what: str) -> Entry:
    if precision in typed["graphs"]:
        graph: Entry = typed["graphs"][precision]
        return graph
    known = list(typed["graphs"])
    reason = typed.get("failed", {}).get(precision)
    why = f": {reason}" if reason else near_matches(precision, known)
    raise ParamsError(f"{what} has no precision {precision!r}{why}; there are {_listed(known)}")


def _graph_files(graph: Entry) -> dict[str | None, tuple[str, Entry]]:
    files = {None: graph["file"], **graph.get("files", {})}
    return {backend: (file, graph) for backend, file in files.items()}


def _require_proven(ladder: Sequence[Entry], precision: str, what: str) -> None:
    """Raise `ParityError` unless every rung down to the precision's common graph is passed."""
    for rung in ladder:
        if rung["precision"] is None and rung["status"] != "passed":
            raise ParityError(f"{what} cannot be shipped: its rung {rung['rung']!r} {_told(rung)}")
    own = _rung(ladder, "precision", None)
    if own is None or own["status"] != "passed":
        told = "is missing: run `dvc repro`" if own is None else _told(own)
        raise ParityError(f"{what} cannot be shipped in {precision}: its rung {told}")


def _proven(
    ladder: Sequence[Entry], kind: str, files: Mapping[Any, tuple[str, Entry]]
) -> tuple[list[Shipped], dict[str, str]]:
    """Return those files whose rung is passed, and why the others are left out.

    An engine that could not be run here is no worse for it: it is proven on the device.
    """
    shipped, left_out = [], {}
    for backend, (file, record) in files.items():
        rung = _rung(ladder, kind, backend)
        if rung is None:
            left_out[backend] = "has no rung in the parity ladder; run `dvc repro`"
        elif rung["status"] == "failed" or (kind == "precision" and rung["status"] != "passed"):
            left_out[backend] = f"its rung {_told(rung)}"
        else:
            shipped.append(Shipped(backend, file, record, rung))
    return shipped, left_out


def _engines(
    build: Entry,
    built: Entry,
    ladder: Sequence[Entry],
    precision: str,
    without_graph: Mapping[str, str],
) -> tuple[list[Shipped], dict[str, str]]:
    """Return the plans, and why there are no others; none of a graph that is not shipped."""
    own = built["engines"].get(precision, {})
    left_out = {
        **{name: f"not built: {reason}" for name, reason in build["not_available"].items()},
        **built.get("failed", {}).get(precision, {}),
        **{
            name: "its engine is fitted to the CPU that it was built on; it takes the graph instead"
            for name in own
            if name not in PLANS
        },
    }
    plans = {
        name: (record["file"], record)
        for name, record in own.items()
        if name in PLANS and name not in without_graph
    }
    shipped, unproven = _proven(ladder, "engine", plans)
    orphans = {name: f"its graph: {why}" for name, why in without_graph.items() if name in PLANS}
    return shipped, {**left_out, **orphans, **unproven}


def _rung(ladder: Sequence[Entry], kind: str, backend: str | None) -> Entry | None:
    own = (r for r in ladder if r["rung"] == kind and r["backend"] == backend)
    return next((rung for rung in own if rung["precision"] is not None), None)


def _told(rung: Entry) -> str:
    verb = "failed" if rung["status"] == "failed" else "was not run"
    return f"{verb}: {rung['reason'] or 'no reason given'}"


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
