"""What the parity chain found: a line per check, with its status at every level."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.engines.records import ParityCheck, VerifyMetrics
from pipeline.report.metrics import Metrics

MARKS = {"passed": "✓", "failed": "✗", "not run": "–"}


@dataclass(frozen=True)
class CheckLine:
    """A check that was asked for at every level."""

    check: ParityCheck  # of one of the levels: what is compared with what, and the tolerance
    statuses: list[str | None]  # by level; None: the level has no such check
    max_rel: float | None  # the largest of all levels
    top1_agreement: float | None  # the smallest
    notes: list[str]


@dataclass(frozen=True)
class ParityChain:
    """A variant's checks."""

    variant: str
    images: int
    levels: list[int]
    lines: list[CheckLine]
    counts: Counter[str]


def chains(metrics: Metrics) -> list[ParityChain]:
    """Return the chain of every variant."""
    return [_chain(variant, own.verify) for variant, own in metrics.items()]


def _chain(variant: str, verify: VerifyMetrics) -> ParityChain:
    levels = list(dict.fromkeys(check.level for check in verify.checks))
    kinds: dict[tuple[str, str | None, str | None], dict[int, ParityCheck]] = {}
    for check in verify.checks:
        kinds.setdefault((check.check, check.precision, check.backend), {})[check.level] = check
    return ParityChain(
        variant,
        verify.images,
        levels,
        [_line(levels, by_level) for by_level in kinds.values()],
        Counter(check.status for check in verify.checks),
    )


def _line(levels: Sequence[int], by_level: dict[int, ParityCheck]) -> CheckLine:
    checks = list(by_level.values())
    return CheckLine(
        checks[0],
        [by_level[level].status if level in by_level else None for level in levels],
        max(_known(check.max_rel for check in checks), default=None),
        min(_known(check.top1_agreement for check in checks), default=None),
        list(dict.fromkeys(check.reason for check in checks if check.reason)),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
