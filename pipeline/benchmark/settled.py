"""Whether the latencies of a run may be believed, from what the run knows of itself."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from pipeline.benchmark.proven_engines import ProvenEngine
from pipeline.benchmark.records import EngineLatency
from pipeline.benchmark.savings import Durations, reference
from pipeline.benchmark.timing.disturbance import OtherWork, drift_pct
from pipeline.export.boundaries import load_onnx
from pipeline.export.structure import structure

DRIFT_PCT = 10.0  # that a reference may slow down within a run
TWINS_PCT = 5.0  # that engines of the same structure may differ by beyond their intervals
OTHER_SHARE = 0.1  # of the threads' time that other processes may take


def unsettled(
    durations: Durations, latencies: Iterable[EngineLatency], other: OtherWork
) -> list[str]:
    """Return the reasons not to believe a run's latencies, a sentence each; none where settled.

    Args:
        durations: in ms, at the batch size that engines are compared at.
        latencies: of the same engines at the same batch size.
        other: how much other processes worked meanwhile.
    """
    found = [*_drifts(durations), *_unlike_twins(durations, latencies)]
    if other.share > OTHER_SHARE:
        found.insert(0, f"other processes took {other.cores:.2f} cores while engines were timed")
    return found


def _drifts(durations: Durations) -> Iterator[str]:
    for backend in dict.fromkeys(one.backend for one in durations):
        first = reference(durations, backend)
        drift = drift_pct(durations[first])
        if drift > DRIFT_PCT:
            yield (
                f"the reference {first.network} on {backend} was up to {drift:.0f} % slower in one "
                "part of the run than in another"
            )


def _unlike_twins(
    engines: Iterable[ProvenEngine], latencies: Iterable[EngineLatency]
) -> Iterator[str]:
    """Yield the engines of one structure that did not take as long as each other."""
    graphs = {one.key: structure(load_onnx(one.graph)) for one in engines}
    twins: dict[tuple[str, str, str], list[EngineLatency]] = defaultdict(list)
    for one in latencies:
        twins[graphs[one.key], one.precision, one.backend].append(one)
    for alike in twins.values():
        fast, slow = (pick(alike, key=lambda one: one.quiet_ms) for pick in (min, max))
        apart = 100 * (slow.quiet_ms / fast.quiet_ms - 1)
        if apart > TWINS_PCT and _low(slow) > _high(fast):
            yield (
                f"the same graph took {fast.quiet_ms:.2f} ms ({fast.network}) and "
                f"{slow.quiet_ms:.2f} ms ({slow.network}) on {fast.backend}"
            )


def _low(one: EngineLatency) -> float:
    return one.quiet_ci_ms[0] if one.quiet_ci_ms else one.quiet_ms


def _high(one: EngineLatency) -> float:
    return one.quiet_ci_ms[1] if one.quiet_ci_ms else one.quiet_ms
