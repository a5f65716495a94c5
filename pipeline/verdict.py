"""What a step was worth: milliseconds saved for accuracy points lost, in numbers and in words."""

from dataclasses import dataclass
from typing import Literal

from pipeline.bootstrap import Interval

Word = Literal["slower", "no faster", "free", "costs accuracy"]


@dataclass(frozen=True)
class Verdict:
    """One step from a network to a smaller one.

    Attributes:
        word: ``slower``; ``no faster``, where the saving is within the noise; ``free``, where it
            is faster and no accuracy was lost; or ``costs accuracy``.
        saved_ms: difference of the p50s; negative where the step made it slower.
        saved_ms_ci: 95 % interval of it, from the same rounds; None where it is not known.
        times: how many times as fast.
        lost_points: of accuracy, in percent of the images; negative where some were gained.
        ms_per_point: saved per point lost; None where nothing was lost or nothing saved.
    """

    word: Word
    saved_ms: float
    saved_ms_ci: Interval | None
    times: float
    lost_points: float
    ms_per_point: float | None


def verdict(
    before_ms: float,
    after_ms: float,
    before_accuracy_pct: float,
    after_accuracy_pct: float,
    saved_ms_ci: Interval | None = None,
) -> Verdict:
    """Judge a step by p50 and accuracy before and after it.

    Without the interval of the saving, any difference counts.
    """
    saved = before_ms - after_ms
    lost = before_accuracy_pct - after_accuracy_pct
    low, high = saved_ms_ci or (saved, saved)
    word: Word
    if high < 0:
        word = "slower"
    elif low <= 0:
        word = "no faster"
    else:
        word = "costs accuracy" if lost > 0 else "free"
    per_point = saved / lost if word == "costs accuracy" else None
    return Verdict(word, saved, saved_ms_ci, before_ms / after_ms, lost, per_point)


def sentence(step: str, found: Verdict) -> str:
    """Return a verdict in words, with a warning where the step did not make it faster."""
    points = _points(found.lost_points)
    change = f"{abs(found.saved_ms):.2f} ms {'saved' if found.saved_ms >= 0 else 'lost'}"
    speed = f"{change} ({found.times:.2f}×)"
    if found.word == "slower":
        return f"{step}: warning, this made it slower: {speed}, {points}"
    if found.word == "no faster":
        return f"{step}: warning, no faster within the noise: {speed}, {points}"
    if found.ms_per_point is None:
        return f"{step}: free: {speed}, {points}"
    return f"{step}: {speed}, {points}: {found.ms_per_point:.2f} ms per point"


def _points(lost: float) -> str:
    if lost > 0:
        return f"{lost:.2f} points of accuracy lost"
    return f"{-lost:.2f} points gained" if lost < 0 else "no accuracy lost"
