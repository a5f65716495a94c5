"""The report as Markdown: what depth and precision cost and save, and what was not measured."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.repairs import ACCURACIES, AS_PLANNED
from pipeline.rows import Row, blocks_out_told

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage
Table = tuple[list[str], list[list[str]]]  # header and lines

TAG = re.compile(r"<(?=[A-Za-z/!?])")  # where HTML begins; "0.1 < 0.97" stays readable
MANY = 12  # with more variants, tables have their chosen levels alone

REPAIR_NOTE = (
    "Validation accuracy of the PyTorch network without the blocks and with what stands in for "
    "them: as it is, with its batch norm re-estimated, fine-tuned. MACs: of forward passes over "
    "training images, a teacher's included. The other tables are of what is shipped."
)


def summary_markdown(rows: Sequence[Row], metrics: Mapping[str, Mapping[str, Metrics]]) -> str:
    """Return the rows as Markdown tables, with the protocol and what was not measured and why.

    Args:
        rows: of all variants.
        metrics: ``{variant: {stage: metrics}}``.
    """
    many = len(metrics) > MANY
    shown = [row for row in rows if row["chosen"]] if many else rows
    fp32 = [row for row in shown if row["precision"] == "fp32"]
    sections = [
        *([_condensed(rows, metrics)] if many else []),
        "## Depth",
        _table(*depth_table(fp32)),
        *_repair_section(fp32),
        "## Training",
        _table(*training_table({variant: own["train"] for variant, own in metrics.items()})),
        "## Precision",
        _precision_table(shown),
        "## Engines of the chosen levels",
        _engine_table([row for row in rows if row["chosen"]]),
        *_notes(metrics, union(row["latency_ms"] for row in rows)),
    ]
    return "\n\n".join(sections) + "\n"


def _condensed(rows: Sequence[Row], variants: Iterable[str]) -> str:
    return (
        f"Of {len(list(variants))} variants the chosen levels alone; all {len(rows)} rows: "
        "`python -m pipeline compare --top 0`, or index.html."
    )


def failures_markdown(failures: Mapping[str, Mapping[str, str]]) -> str:
    """Return a table of the variants that failed, nothing where none did.

    Args:
        failures: ``{variant: {"stage": …, "reason": …}}``.
    """
    if not failures:
        return ""
    lines = [
        [variant, failure["stage"], failure["reason"]] for variant, failure in failures.items()
    ]
    return f"## Failed\n\n{_table(['variant', 'stage', 'reason'], lines)}\n\n"


def depth_table(rows: Sequence[Row]) -> Table:
    """Return the float32 rows: what a removed block costs and saves."""
    timed = union(row["latency_ms"] for row in rows)
    header = [
        "variant",
        "level",
        "removed",
        "replaced by",
        "val %",
        "val %, BN re-estimated",
        "test %",
    ]
    header += ["params k", "MMACs", "ONNX kB", *(f"{name} p50 ms" for name in timed)]
    return header, [_depth_cells(row, timed) for row in rows]


def _depth_cells(row: Row, timed: Sequence[str]) -> list[str]:
    return [
        row["variant"],
        _level(row),
        blocks_out_told(row) or "–",
        row["replacement"] if row["removed"] else "–",
        f"{row['val_accuracy_pct']:.2f}",
        _measured(row, "batch_norm"),
        f"{row['test_accuracy_pct']:.2f}",
        f"{row['params'] / 1e3:.0f}",
        f"{row['macs'] / 1e6:.2f}",
        f"{row['onnx_bytes'] / 1e3:.0f}",
        *(_p50(row, name) for name in timed),
    ]


def training_table(trained: Mapping[str, Metrics]) -> Table:
    """Return what each variant was trained by and what that took: images, seconds, MACs."""
    header = ["variant", "strategy", "λ", "taught by", "blocks gone", "images", "s", "TMACs"]
    return header, [[variant, *_training_cells(own)] for variant, own in trained.items()]


def _training_cells(train: Metrics) -> list[str]:
    settings = train["train"]
    return [
        settings["strategy"]["name"],
        f"{settings['penalty']['lambda']:g}",
        settings["distill"]["teacher"] or "–",
        str(len(train["removed"])),
        str(train["images_seen"]),
        f"{train['seconds']:.0f}",
        f"{train['macs_spent'] / 1e12:.2f}",
    ]


def _repair_section(rows: Sequence[Row]) -> list[str]:
    """Return what was done to networks after their blocks went; nothing where that was nothing."""
    repair = repair_table(rows)
    return ["## Repair", _table(*repair), REPAIR_NOTE] if repair else []


def repair_table(rows: Sequence[Row]) -> Table | None:
    """Return what each repair was worth and took; None where nothing was repaired."""
    if not any("healing" in row or row["shipped"] != AS_PLANNED for row in rows):
        return None
    header = ["variant", "level", "removed, val %", "BN re-estimated, val %", "healed, val %"]
    header += ["healing s", "images k", "GMACs", "shipped"]
    return header, [_repair_cells(row) for row in rows]


def _repair_cells(row: Row) -> list[str]:
    spent, kinds = row.get("healing"), ("seconds", "images_seen", "macs_spent")
    units = dict(zip(kinds, (1, 1e3, 1e9), strict=True))
    return [
        row["variant"],
        _level(row),
        *(_measured(row, kind) for kind in ACCURACIES),
        *(f"{spent[key] / unit:.0f}" if spent else "–" for key, unit in units.items()),
        row["shipped"].replace("_", " "),
    ]


def _measured(row: Row, kind: str) -> str:
    return _percent(row.get(ACCURACIES[kind]))


def _percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.2f}"


def _precision_table(rows: Sequence[Row]) -> str:
    """Return a line per level with the accuracy, latency and size of every precision."""
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    timed = union(row["latency_ms"] for row in rows)
    by_level: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        by_level.setdefault((row["variant"], row["level"]), {})[row["precision"]] = row
    header = ["variant", "level", *(f"{precision} test %" for precision in precisions)]
    header += [f"{name} {p} p50 ms" for name in timed for p in precisions]
    header += [f"ONNX {p} kB" for p in precisions]
    lines = []
    for (variant, _), by in by_level.items():
        cells = [variant, _level(next(iter(by.values())))]
        cells += [f"{by[p]['test_accuracy_pct']:.2f}" if p in by else "–" for p in precisions]
        cells += [_p50(by.get(p), name) for name in timed for p in precisions]
        cells += [f"{by[p]['onnx_bytes'] / 1e3:.0f}" if p in by else "–" for p in precisions]
        lines.append(cells)
    return _table(header, lines)


def _level(row: Row) -> str:
    return f"**{row['level']}**" if row["chosen"] else str(row["level"])


def _p50(row: Row | None, backend: str) -> str:
    latency = row and row["latency_ms"].get(backend)
    return f"{latency['p50']:.2f}" if latency else "–"


def _engine_table(rows: Sequence[Row]) -> str:
    """Return a line per engine: its accuracy where it was run, its size, its weights by type."""
    header = ["variant", "level", "precision", "backend", "val %", "test %", "kB"]
    header += ["kB of weights, by type"]
    lines = []
    for row in rows:
        for backend, size in row["engine_bytes"].items():
            held = row["engine_weight_bytes"][backend].items()
            weights = ", ".join(f"{kind} {count / 1e3:.0f}" for kind, count in held)
            which = [row["variant"], str(row["level"]), row["precision"], backend]
            accuracy = row["engine_accuracy_pct"].get(backend, {})
            shown = [_percent(accuracy.get(split)) for split in ("val", "test")]
            lines.append([*which, *shown, f"{size / 1e3:.0f}", weights])
    return _table(header, lines)


def _table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(header)
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(_text, row)) + " |" for row in rows)


def _text(value: str) -> str:
    """Return any text as one line of Markdown that holds no HTML and parts no cells."""
    return TAG.sub("&lt;", " ".join(value.split())).replace("|", "\\|")


def union(maps: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return every key of the maps once, in the order in which they come."""
    return list(dict.fromkeys(name for each in maps for name in each))


def _notes(metrics: Mapping[str, Mapping[str, Metrics]], timed: Sequence[str]) -> list[str]:
    """Say what the numbers are, how they were taken, and what is missing."""
    benchmark = next(iter(metrics.values()))["benchmark"]
    protocol, target = benchmark["protocol"], benchmark["target"]
    devices = _text(", ".join([target["cpu"], *(d["name"] for d in target["devices"])]))
    versions = ", ".join(f"{name} {target['versions'][name]}" for name in timed) or "nothing timed"
    notes = [
        "Bold: the chosen level, the deepest within the allowed drop of validation accuracy. "
        "Test accuracy is that of the ONNX file in each precision, among the engines that of what "
        "was run: a backend may have a graph of its own (int8 on ONNX Runtime).",
        f"Latency: batch {max(protocol['batch_sizes'])}, {protocol['threads']} threads, "
        f"{protocol['rounds']} rounds × {protocol['repeats']} repeats, levels and precisions in "
        f"turn, on {devices}; {versions}. All batch sizes, intervals and blocks: `make bench`.",
    ]
    dead = dead_blocks({variant: own["plan"] for variant, own in metrics.items()})
    if dead:
        named = "; ".join(f"{variant}: {', '.join(blocks)}" for variant, blocks in dead.items())
        notes.append(
            f"Dead blocks, whose branch only adds a constant and which go first: {_text(named)}."
        )
    missing = "\n".join(f"- {_text(line)}" for line in not_measured(metrics))
    return [*notes, "Not measured:", missing] if missing else notes


def dead_blocks(plans: Mapping[str, Metrics]) -> dict[str, list[str]]:
    """Return by variant the blocks whose branch is dead, each with what shows it."""
    return {
        variant: [f"{name} ({found['how']})" for name, found in plan["dead"].items()]
        for variant, plan in plans.items()
        if plan["dead"]
    }


def not_measured(metrics: Mapping[str, Mapping[str, Metrics]]) -> list[str]:
    """Say what there is no number of: backends in general, then precisions and engines."""
    lines: dict[str, None] = {}
    for by_stage in metrics.values():
        reasons = by_stage["build"]["not_available"] | by_stage["benchmark"]["not_timed"]
        lines |= dict.fromkeys(f"{name}: {why}" for name, why in sorted(reasons.items()))
    failures: dict[str, list[tuple[str, str]]] = {}
    for variant, by_stage in metrics.items():
        for level, what, why in _failures(by_stage):
            failures.setdefault(what, []).append((f"{variant} level {level}", why))
    for what, found in failures.items():
        where, why = found[0]
        others = f" (and {len(found) - 1} more levels: metrics/)" if len(found) > 1 else ""
        lines[f"{what}, {where}: {why}{others}"] = None
    return list(lines)


def _failures(metrics: Mapping[str, Metrics]) -> Iterator[tuple[int, str, str]]:
    """Yield level, precision with backend, and reason of all that failed."""
    for stage in ("precision", "build"):
        for level in metrics[stage]["levels"]:
            for precision, reason in level["failed"].items():
                by_backend = reason if isinstance(reason, Mapping) else {"": reason}
                for backend, why in by_backend.items():
                    yield level["level"], " ".join(filter(None, [precision, backend])), why
    for level in metrics["verify"]["levels"]:
        for rung in level["rungs"]:
            if rung["status"] == "failed":
                what = " ".join(filter(None, [rung["precision"], rung["backend"]]))
                yield level["level"], what, rung["reason"]
