"""All variants in one interleaved run: what every engine takes and loses, and what it is worth.

The reference of all ratios and verdicts is level 0 in fp32 of the first variant asked for, on the
same backend, timed in the same rounds.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pipeline.bench_entries import Entries
from pipeline.bootstrap import saving_interval
from pipeline.contenders import Contender
from pipeline.measurement import Measured, numbers
from pipeline.verdict import verdict

Row = dict[str, Any]


def rows(measured: Measured, found: Entries) -> list[Row]:
    """Return one row per engine and batch size, in ms and percent.

    `times_reference` is how many times as fast as the reference; absent where that was not timed.
    """
    return [_row(one, size, measured, found) for size in measured.timings for one in found.timed]


def _row(one: Contender, size: int, measured: Measured, found: Entries) -> Row:
    timed = measured.timings[size][one]
    entry = numbers(timed.host)
    row = {
        "variant": one.variant,
        "level": one.level,
        "removed": found.removed[one.variant, one.level],
        "chosen": one.level == found.chosen[one.variant],
        "precision": one.precision,
        "backend": one.backend,
        "batch": size,
        "val_accuracy_pct": one.val_accuracy_pct,
        "test_accuracy_pct": one.test_accuracy_pct,
        **{f"{name}_ms": ms for name, ms in entry.items()},
        "images_per_s": round(1e3 * size / entry["p50"], 1),
        "settled": timed.warmup.stable,
    }
    first = reference(found, one.backend)
    if first:
        before = numbers(measured.timings[size][first].host)["p50"]
        row["times_reference"] = round(before / entry["p50"], 3)
    if timed.device is not None:
        row["device_ms"] = {**numbers(timed.device), "how": timed.device_how}
    if one in measured.energy and size == max(measured.timings):
        row["energy_mj_per_image"] = measured.energy[one]
    return row


def reference(found: Entries, backend: str) -> Contender | None:
    """Return what ratios on a backend relate to: the first variant's level 0 in fp32."""
    for one in found.timed:
        if (one.variant, one.level, one.precision, one.backend) == (
            found.first,
            0,
            "fp32",
            backend,
        ):
            return one
    return None


def verdicts(measured: Measured, found: Entries) -> list[Row]:
    """Judge every step that was timed: depth, precision, both, and precision after depth."""
    return [
        _verdict(step, before, after, size, measured)
        for size in measured.timings
        for backend in dict.fromkeys(one.backend for one in found.timed)
        for step, before, after in _steps(found, backend)
    ]


def _steps(found: Entries, backend: str) -> Iterator[tuple[str, Contender, Contender]]:
    first = reference(found, backend)
    if first is None:
        return
    here = [one for one in found.timed if one.backend == backend]
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


def _verdict(step: str, before: Contender, after: Contender, size: int, measured: Measured) -> Row:
    slow, fast = (measured.timings[size][one].host for one in (before, after))
    found = verdict(
        numbers(slow)["p50"],
        numbers(fast)["p50"],
        before.test_accuracy_pct,
        after.test_accuracy_pct,
        saving_interval(slow, fast),
    )
    return {
        "step": step,
        "backend": after.backend,
        "batch": size,
        "before": _label(before),
        "after": _label(after),
        **asdict(found),
    }


def _label(one: Contender) -> str:
    return f"{one.variant} level {one.level} {one.precision}"


def gate(found: Entries, min_accuracy_pct: float) -> Row:
    """Hold what would ship against a floor of test accuracy, in percent.

    Every timed engine at its variant's chosen level must reach it. Where there is none, nothing is
    proven and the gate is not met.
    """
    shipped = [one for one in found.timed if one.level == found.chosen[one.variant]]
    # What is no number reaches no floor.
    below = [one for one in shipped if not one.test_accuracy_pct >= min_accuracy_pct]
    return {
        "min_accuracy_pct": min_accuracy_pct,
        "met": bool(shipped) and not below,
        "checked": len(shipped),
        "below": [f"{_label(one)} {one.backend}: {one.test_accuracy_pct:.2f} %" for one in below],
    }
