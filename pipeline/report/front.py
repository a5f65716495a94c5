"""The Pareto front: engines that nothing beats in both latency and validation accuracy."""

from collections import Counter
from collections.abc import Iterable

from pipeline.report.records import Candidate, Summary

NAMED = 8  # variants that a static chart can tell apart by colour


def pareto_front(engines: Iterable[Candidate]) -> list[Candidate]:
    """Return the engines that no other of their backend beats, the fastest of a backend first.

    Engines of different backends run on different devices: each backend has a front of its own.
    Of engines that are equal in both the first is taken.
    """
    front: list[Candidate] = []
    ordered = sorted(engines, key=lambda e: (e.backend, e.latency_ms, -e.val_accuracy_pct))
    for engine in ordered:
        last = front[-1] if front and front[-1].backend == engine.backend else None
        if last is None or engine.val_accuracy_pct > last.val_accuracy_pct:
            front.append(engine)
    return front


def named(summary: Summary) -> list[str]:
    """Return the variants that a static chart names and colours: all, up to `NAMED`.

    Of more it is those that are most often on a front; the first where nothing was timed.
    """
    variants = list(dict.fromkeys(row.variant for row in summary.networks))
    if len(variants) <= NAMED:
        return variants
    counts = Counter(engine.variant for engine in pareto_front(summary.timed))
    best = [variant for variant, _ in counts.most_common(NAMED)] or variants[:NAMED]
    return [variant for variant in variants if variant in best]
