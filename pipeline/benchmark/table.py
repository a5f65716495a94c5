"""The results of a benchmark as one table: as Markdown, which is printed too, and as CSV."""

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from pipeline.benchmark.records import BenchmarkMetrics, EngineKey, EngineLatency, SkippedEngine
from pipeline.benchmark.savings import reference, sentence
from pipeline.benchmark.timing.protocol import protocol_lines

FEW = 3  # engines that are named one by one where they share a reason
WIDE = 1000  # columns of text: no cell is broken
ABSENT, NOTHING = "–", "Nothing was timed."

Chosen = Collection[tuple[str, int]]  # the levels, by variant, that are marked as those to ship


def as_markdown(metrics: BenchmarkMetrics, chosen: Chosen = (), gate: str = "") -> str:
    """Return the table, the verdicts at the largest batch, the protocol and what is missing.

    Args:
        metrics: of any number of variants.
        chosen: levels to mark.
        gate: what came of the gate; empty without one.
    """
    text = f"# Bench\n\n{_aligned(_rows(metrics, chosen)) if metrics.engines else NOTHING}\n"
    for title, lines in _sections(metrics, chosen, gate).items():
        if lines:
            text += f"\n## {title}\n\n" + "".join(f"- {line}\n" for line in lines)
    return text


def _rows(metrics: BenchmarkMetrics, chosen: Chosen) -> list[dict[str, str]]:
    at = {(one.key, one.batch): one for one in metrics.latencies}
    batch_sizes = metrics.protocol["batch_sizes"]
    largest = max(batch_sizes)
    rows = []
    for engine in metrics.engines:
        last = at[engine.key, largest]
        first = reference(metrics.engines, engine.backend)
        speedup = at[first.key, largest].quiet_ms / last.quiet_ms
        mark = " *" if (engine.variant, engine.level) in chosen else ""
        row = {
            "variant": engine.variant,
            "level": f"{engine.level}{mark}",
            "precision": engine.precision,
            "backend": engine.backend,
            "removed": str(len(engine.removed)),
            "val %": _decimal(engine.val_accuracy_pct),
            "test %": _decimal(engine.test_accuracy_pct),
            **{f"ms, batch {n}": _decimal(at[engine.key, n].quiet_ms) for n in batch_sizes},
            "95 %": "–".join(map(_decimal, last.quiet_ci_ms or ())),
            "p50": _decimal(last.p50_ms),
            "p90": _decimal(last.p90_ms),
            "p99": _decimal(last.p99_ms),
            "device ms": _decimal(last.device_quiet_ms),
            "images/s": f"{last.images_per_s:.0f}",
            "speedup": _decimal(speedup),
            "mJ/image": _energy(engine, metrics),
        }
        rows.append(row)
    return rows


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _energy(engine: EngineKey, of: BenchmarkMetrics) -> str:
    return ", ".join(
        f"{one.meter} {one.mj_per_image:.3g}" for one in of.energy if one.key == engine.key
    )


def _aligned(rows: Sequence[dict[str, str]]) -> str:
    """Return a Markdown table; columns that are empty in all rows are left out."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(*columns, box=MARKDOWN)
    for row in rows:
        table.add_row(*(row[name] or ABSENT for name in columns))
    console = Console(width=WIDE, color_system=None, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().strip()


def _sections(metrics: BenchmarkMetrics, chosen: Chosen, gate: str) -> dict[str, list[str]]:
    largest = max(metrics.protocol["batch_sizes"])
    return {
        "Unsettled": metrics.unsettled,
        "Verdicts": [sentence(one) for one in metrics.verdicts if one.batch == largest],
        "Protocol": [
            *protocol_lines(metrics.protocol),
            _machine(metrics),
            *(
                f"Speedup: against {one.network}, or the first engine, on the same backend."
                for one in metrics.engines[:1]
            ),
            *(["* the level that the variant's plan ships."] if chosen else []),
        ],
        "Short pass alone, since another is as accurate and faster": [
            f"{one.network} {one.backend}: {one.ratio:.2f} × {one.reference}"
            for one in metrics.ratios
        ],
        "Not timed": _missing(metrics),
        "Not measured": [
            f"{what} by {name}: {reason}"
            for what, absent in (("energy", metrics.no_energy), ("memory", metrics.no_memory))
            for name, reason in absent.items()
        ],
        "Not stable after the warm-up": [
            f"{one.network} {one.backend}, batch {one.batch}"
            for one in metrics.latencies
            if not one.warmed_up
        ],
        "Gate": [gate] if gate else [],
    }


def _machine(metrics: BenchmarkMetrics) -> str:
    target, load = metrics.target, metrics.conditions["after"]["load_1min"]
    devices = ", ".join([target["cpu"], *(device["name"] for device in target["devices"])])
    timed = dict.fromkeys(one.backend for one in metrics.engines)
    versions = "".join(f", {name} {target['versions'][name]}" for name in timed)
    return f"On {devices}{versions}; load at the end {load}."


def _missing(metrics: BenchmarkMetrics) -> list[str]:
    """Return one line per backend and reason, with the engines it holds for."""
    by_reason: dict[tuple[str, str], list[SkippedEngine]] = defaultdict(list)
    for one in metrics.skipped:
        by_reason[one.backend, one.reason].append(one)
    skipped = {one.backend for one in metrics.skipped}
    return [f"{name}: {why}" for name, why in metrics.not_timed.items() if name not in skipped] + [
        f"{backend} ({_which(ones)}): {reason}" for (backend, reason), ones in by_reason.items()
    ]


def _which(ones: Sequence[SkippedEngine]) -> str:
    if len(ones) <= FEW:
        return "; ".join(one.network for one in ones)
    return f"{len(ones)} engines, {', '.join(dict.fromkeys(one.precision for one in ones))}"


def as_csv(metrics: BenchmarkMetrics) -> str:
    """Return one line per engine and batch size, and one per engine that was not timed."""
    engines = {one.key: one for one in metrics.engines}
    rows = [
        asdict(engines[one.key])
        | _flat(one)
        | {"removed": " ".join(engines[one.key].removed), "mj_per_image": _energy(one, metrics)}
        for one in metrics.latencies
    ]
    rows += [asdict(one) for one in metrics.skipped]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(latency: EngineLatency) -> dict[str, Any]:
    """Return a latency with two columns, ``_low`` and ``_high``, for an interval."""
    row: dict[str, Any] = {}
    for name, value in asdict(latency).items():
        if name.endswith("_ci_ms"):
            row[f"{name}_low"], row[f"{name}_high"] = value or (None, None)
        else:
            row[name] = value
    return row
