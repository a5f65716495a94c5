"""The report as Markdown: what depth and precision cost and save, and what was not measured."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import get_args

from models.errors import printable
from pipeline.engines.records import MissingEngine, MissingGraph, ParityCheck
from pipeline.plan.records import Repair
from pipeline.report.failures import Failure
from pipeline.report.metrics import Metrics, VariantMetrics
from pipeline.report.records import Network, NetworkRow, Summary
from pipeline.train.records import TrainMetrics

Table = tuple[list[str], list[list[str]]]  # header and lines

TAG = re.compile(r"<(?=[A-Za-z/!?])")  # where HTML begins; "0.1 < 0.97" stays readable
MANY = 12  # with more variants, tables have their chosen levels alone

REPAIRS = get_args(Repair)
REPAIR_NOTE = (
    "Validation accuracy of the PyTorch network without the removed blocks: as planned, with its "
    "batch norm re-estimated, fine-tuned. MACs: of forward passes over training images, a "
    "teacher's included. The other tables are of what is shipped."
)


def summary_markdown(summary: Summary, metrics: Metrics) -> str:
    """Return the report as Markdown tables, with the protocol and what was not measured and why."""
    many = len(metrics) > MANY
    chosen = [row for row in summary.networks if row.chosen]
    shown = chosen if many else summary.networks
    fp32 = [row for row in shown if row.precision == "fp32"]
    repair = repair_table(fp32)
    sections = [
        *failures_markdown(summary.failures),
        *unsettled_markdown(summary.unsettled),
        *([_condensed(summary, metrics)] if many else []),
        "## Depth",
        _table(depth_table(summary, fp32)),
        *(["## Repair", _table(repair), REPAIR_NOTE] if repair else []),
        "## Training",
        _table(training_table(metrics)),
        "## Precision",
        _table(_precision_table(summary, shown)),
        "## Engines of the chosen levels",
        _table(_engine_table(summary, chosen)),
        *_notes(summary, metrics),
    ]
    return "\n\n".join(sections) + "\n"


def failures_markdown(failures: Mapping[str, Failure]) -> list[str]:
    """Return a section on the variants that failed, nothing where none did."""
    lines = [[variant, failure.stage, failure.reason] for variant, failure in failures.items()]
    return ["## Failed", _table((["variant", "stage", "reason"], lines))] if lines else []


def unsettled_markdown(reasons: Sequence[str]) -> list[str]:
    """Return a section on what disturbed the timing, nothing where nothing did."""
    if not reasons:
        return []
    lines = "\n".join(f"- {_text(reason)}" for reason in reasons)
    return ["## Unsettled", "Time again on a quiet machine before deciding.", lines]


def _condensed(summary: Summary, variants: Iterable[str]) -> str:
    return (
        f"Of {len(list(variants))} variants the chosen levels alone; all {len(summary.networks)} "
        "rows: `python -m pipeline compare --top 0`, or index.html."
    )


def depth_table(summary: Summary, rows: Sequence[NetworkRow]) -> Table:
    """Return what a removed block costs and saves: a line per row, which is in float32."""
    backends = _timed_on(summary, rows)
    header = ["variant", "level", "removed", "replaced by", "val %", "val %, BN re-estimated"]
    header += ["test %", "params k", "MMACs", "ONNX kB", *(f"{name} ms" for name in backends)]
    return header, [
        [
            row.variant,
            _level(row),
            row.removed_text or "–",
            row.replacement if row.removed else "–",
            f"{row.val_accuracy_pct:.2f}",
            _number(row.val_accuracy_by_repair_pct.get("batch_norm")),
            f"{row.test_accuracy_pct:.2f}",
            f"{row.params / 1e3:.0f}",
            f"{row.macs / 1e6:.2f}",
            f"{row.onnx_bytes / 1e3:.0f}",
            *(_latency(summary, row.key, name) for name in backends),
        ]
        for row in rows
    ]


def training_table(metrics: Metrics) -> Table:
    """Return what each variant was trained by and what that took: images, seconds, MACs."""
    header = ["variant", "strategy", "λ", "taught by", "blocks removed", "images", "s", "TMACs"]
    return header, [[name, *_training_cells(own.train)] for name, own in metrics.items()]


def _training_cells(trained: TrainMetrics) -> list[str]:
    settings = trained.train
    return [
        settings["strategy"]["name"],
        f"{settings['penalty']['lambda']:g}",
        settings["distill"]["teacher"] or "–",
        str(len(trained.removed)),
        str(trained.images_seen),
        f"{trained.seconds:.0f}",
        f"{trained.macs_spent / 1e12:.2f}",
    ]


def repair_table(rows: Sequence[NetworkRow]) -> Table | None:
    """Return what each repair was worth and took; None where nothing was repaired."""
    if not any(row.healing or row.shipped != "removed" for row in rows):
        return None
    header = ["variant", "level", "removed, val %", "BN re-estimated, val %", "healed, val %"]
    header += ["healing s", "images k", "GMACs", "shipped"]
    return header, [
        [
            row.variant,
            _level(row),
            *(_number(row.val_accuracy_by_repair_pct.get(repair)) for repair in REPAIRS),
            *_spent(row.healing),
            row.shipped.replace("_", " "),
        ]
        for row in rows
    ]


def _spent(healing: Mapping[str, float] | None) -> list[str]:
    units = {"seconds": 1.0, "images_seen": 1e3, "macs_spent": 1e9}
    return [f"{healing[name] / unit:.0f}" if healing else "–" for name, unit in units.items()]


def _precision_table(summary: Summary, rows: Sequence[NetworkRow]) -> Table:
    """Return a line per level with the accuracy, latency and size of every precision."""
    precisions = list(dict.fromkeys(row.precision for row in rows))
    backends = _timed_on(summary, rows)
    by_level: dict[tuple[str, int], dict[str, NetworkRow]] = {}
    for row in rows:
        by_level.setdefault((row.variant, row.level), {})[row.precision] = row
    header = ["variant", "level", *(f"{precision} test %" for precision in precisions)]
    header += [f"{name} {precision} ms" for name in backends for precision in precisions]
    header += [f"ONNX {precision} kB" for precision in precisions]
    return header, [
        [
            variant,
            _level(next(iter(by.values()))),
            *(f"{by[p].test_accuracy_pct:.2f}" if p in by else "–" for p in precisions),
            *(_latency(summary, (variant, level, p), b) for b in backends for p in precisions),
            *(f"{by[p].onnx_bytes / 1e3:.0f}" if p in by else "–" for p in precisions),
        ]
        for (variant, level), by in by_level.items()
    ]


def _engine_table(summary: Summary, rows: Sequence[NetworkRow]) -> Table:
    """Return a line per engine: its accuracy where it was run, its size, its weights by type."""
    header = ["variant", "level", "precision", "backend", "val %", "test %", "kB"]
    header += ["kB of weights, by type"]
    engines = chain.from_iterable(summary.engines_by_network[row.key].values() for row in rows)
    return header, [
        [
            *(engine.variant, str(engine.level), engine.precision, engine.backend),
            *(_number(engine.val_accuracy_pct), _number(engine.test_accuracy_pct)),
            f"{engine.bytes / 1e3:.0f}",
            ", ".join(f"{kind} {size / 1e3:.0f}" for kind, size in engine.weight_bytes.items()),
        ]
        for engine in engines
    ]


def _timed_on(summary: Summary, rows: Sequence[NetworkRow]) -> list[str]:
    """Return the backends on which an engine of these rows was timed."""
    keys = {row.key for row in rows}
    return list(dict.fromkeys(e.backend for e in summary.timed if e.network in keys))


def _level(row: NetworkRow) -> str:
    return f"**{row.level}**" if row.chosen else str(row.level)


def _latency(summary: Summary, network: Network, backend: str) -> str:
    engine = summary.engines_by_network.get(network, {}).get(backend)
    if engine and engine.ratio:
        return f"{engine.ratio:.2f} ref"
    return _number(engine.quiet_ms if engine else None)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _table(table: Table) -> str:
    header, lines = table
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(_text, row)) + " |" for row in rows)


def _text(value: str) -> str:
    """Return any text as one line of Markdown without HTML, links and control characters."""
    line = printable(" ".join(value.split()))
    return TAG.sub("&lt;", line).replace("|", "\\|").replace("](", "]\\(")


def _notes(summary: Summary, metrics: Metrics) -> list[str]:
    """Return what the numbers are, how they were taken, and what is missing."""
    benchmark = next(iter(metrics.values())).benchmark
    protocol, target = benchmark.protocol, benchmark.target
    devices = _text(", ".join([target["cpu"], *(d["name"] for d in target["devices"])]))
    versions = [f"{name} {target['versions'][name]}" for name in summary.timed_backends()]
    notes = [
        "Bold: the chosen level, the deepest within the allowed drop of validation accuracy. "
        "Test accuracy is that of the ONNX file in each precision, among the engines that of what "
        "was run: a backend may have a graph of its own (int8 on ONNX Runtime).",
        f"Latency: batch {max(protocol['batch_sizes'])}, {protocol['threads']} threads, "
        f"{protocol['rounds']} rounds × {protocol['repeats']} repeats, all variants in turn in one "
        f"run, the 20th percentile of the calls, on {devices}; "
        f"{', '.join(versions) or 'nothing timed'}. All batch sizes, intervals and blocks: "
        "`make bench`.",
    ]
    dead = {name: blocks for name, own in metrics.items() if (blocks := dead_blocks(own))}
    if dead:
        named = "; ".join(
            f"{name}: {', '.join(f'{block} ({why})' for block, why in blocks.items())}"
            for name, blocks in dead.items()
        )
        notes.append(
            "Dead blocks, whose branch only adds a constant and which are removed first: "
            f"{_text(named)}."
        )
    missing = "\n".join(f"- {_text(line)}" for line in not_measured(metrics))
    return [*notes, "Not measured:", missing] if missing else notes


def dead_blocks(metrics: VariantMetrics) -> dict[str, str]:
    """Return the blocks whose branch only adds a constant, and how far it is from one."""
    return {
        dead.block: f"largest deviation {dead.largest_deviation:.1e}" for dead in metrics.plan.dead
    }


def not_measured(metrics: Metrics) -> list[str]:
    """Return what there is no number of: backends in general, then precisions and engines."""
    lines: dict[str, None] = {}
    for own in metrics.values():
        reasons = own.build.not_available | own.benchmark.not_timed
        lines |= dict.fromkeys(f"{name}: {why}" for name, why in sorted(reasons.items()))
    failures: dict[str, list[tuple[str, str]]] = {}
    for variant, own in metrics.items():
        for level, what, why in _failures(own):
            failures.setdefault(what, []).append((f"{variant} level {level}", why))
    for what, found in failures.items():
        where, why = found[0]
        others = f" (and {len(found) - 1} more levels: metrics/)" if len(found) > 1 else ""
        lines[f"{what}, {where}: {why}{others}"] = None
    return list(lines)


def _failures(metrics: VariantMetrics) -> list[tuple[int, str, str]]:
    """Return level, precision with backend, and reason of all that failed."""
    found: list[MissingGraph | MissingEngine | ParityCheck] = [
        *metrics.precision.missing,
        *metrics.build.missing,
        *(check for check in metrics.verify.checks if check.status == "failed"),
    ]
    return [
        (one.level, " ".join(filter(None, (one.precision, one.backend))) or "graph", one.reason)
        for one in found
        if one.reason
    ]
