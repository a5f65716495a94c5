"""What steps saved, from the same rounds: each removed block, and depth and precision for accuracy.

Accuracy is that of the validation images. The reference is level 0 in fp32 of the first variant
that was timed, on the same backend; where a backend has no such engine, its first.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TypeVar

from pipeline.benchmark.proven_engines import ProvenEngine
from pipeline.benchmark.records import EngineKey, Interval, LatencySaving, Step, Verdict, Word
from pipeline.benchmark.timing.confidence import Rounds, quiet, saving_interval

Keyed = TypeVar("Keyed", bound=EngineKey)
Durations = Mapping[ProvenEngine, Rounds]  # of engines that were timed in the same rounds


def rounded(interval: Interval | None) -> Interval | None:
    """Return an interval in ms as it stands in metrics files."""
    return (round(interval[0], 4), round(interval[1], 4)) if interval else None


def _saved(before: Rounds, after: Rounds) -> tuple[float, Interval | None]:
    """Return the difference of the quiet latencies in ms, and its interval."""
    ms = round(quiet(before) - quiet(after), 4)
    return ms, rounded(saving_interval(before, after))


def savings(durations: Durations, batch: int) -> list[LatencySaving]:
    """Return the saving of every level against the one before it that was timed.

    The savings of a variant's levels in one precision on one backend add up to the difference
    between its first and its last.

    Args:
        durations: in ms.
        batch: the number of images in a call.
    """
    series: dict[tuple[str, str, str], list[ProvenEngine]] = defaultdict(list)
    for one in durations:
        series[one.variant, one.precision, one.backend].append(one)
    found = []
    for engines in series.values():
        for before, after in pairwise(sorted(engines, key=lambda one: one.level)):
            blocks = [block for block in after.removed if block not in before.removed]
            saved = _saved(durations[before], durations[after])
            found.append(LatencySaving(*after.key, batch, blocks, before.level, *saved))
    return found


def verdicts(durations: Durations, batch: int) -> list[Verdict]:
    """Judge every step that was timed: depth, precision, both, and precision after depth.

    Args:
        durations: in ms.
        batch: the number of images in a call.
    """
    return [
        _verdict(step, before, after, durations, batch)
        for backend in dict.fromkeys(one.backend for one in durations)
        for step, before, after in _steps(durations, backend)
    ]


def reference(engines: Iterable[Keyed], backend: str) -> Keyed:
    """Return what ratios and verdicts on a backend relate to, of engines that were timed on it."""
    here = [one for one in engines if one.backend == backend]
    return next((one for one in here if one.level == 0 and one.precision == "fp32"), here[0])


def _steps(
    engines: Iterable[ProvenEngine], backend: str
) -> Iterator[tuple[Step, ProvenEngine, ProvenEngine]]:
    first = reference(engines, backend)
    if (first.level, first.precision) != (0, "fp32"):
        return
    here = [one for one in engines if one.backend == backend]
    plain = {(one.variant, one.level): one for one in here if one.precision == "fp32"}
    for one in here:
        if one.level == 0:
            if one.precision != "fp32" and one.variant == first.variant:
                yield "precision", first, one
        elif one.precision == "fp32":
            yield "depth", first, one
        else:
            yield "both", first, one
            if (one.variant, one.level) in plain:
                yield "precision after depth", plain[one.variant, one.level], one


def _verdict(
    step: Step, before: ProvenEngine, after: ProvenEngine, durations: Durations, batch: int
) -> Verdict:
    slow, fast = durations[before], durations[after]
    saved, interval = _saved(slow, fast)
    lost = round(before.val_accuracy_pct - after.val_accuracy_pct, 4)
    word = judged(saved, interval, lost)
    return Verdict(
        step,
        after.backend,
        batch,
        before=before.network,
        after=after.network,
        word=word,
        saved_ms=saved,
        saved_ms_ci=interval,
        times=quiet(slow) / quiet(fast),
        lost_points=lost,
        ms_per_point=saved / lost if word == "costs accuracy" else None,
    )


def judged(saved_ms: float, saved_ms_ci: Interval | None, lost_points: float) -> Word:
    """Return a step's word; without the interval of the saving, any difference counts."""
    low, high = saved_ms_ci or (saved_ms, saved_ms)
    if high < 0:
        return "slower"
    if low <= 0:
        return "no faster"
    return "costs accuracy" if lost_points > 0 else "free"


WARNINGS: dict[Word, str] = {
    "slower": "warning, this made it slower: ",
    "no faster": "warning, no faster within the noise: ",
    "free": "free: ",
    "costs accuracy": "",
}


def sentence(found: Verdict) -> str:
    """Return a verdict in words, with a warning where the step did not make it faster."""
    lost = found.lost_points
    change = f"{abs(found.saved_ms):.2f} ms {'saved' if found.saved_ms >= 0 else 'lost'}"
    points = f"{abs(lost):.2f} points {'of accuracy lost' if lost > 0 else 'gained'}"
    price = "" if found.ms_per_point is None else f": {found.ms_per_point:.2f} ms per point"
    return (
        f"{found.before} → {found.after}, {found.backend}, {found.step}: {WARNINGS[found.word]}"
        f"{change} ({found.times:.2f}×), {points if lost else 'no accuracy lost'}{price}"
    )
