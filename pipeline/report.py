"""Bring the stages' metrics together: one row per variant, level and precision, and as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage
Row = dict[str, Any]
STAGES = ("plan", "collapse", "precision", "build", "verify", "benchmark")


def summary_rows(variant: str, metrics: Mapping[str, Metrics]) -> list[Row]:
    """Return one row per level and precision of a variant, but for graphs that failed the ladder.

    Accuracies are those of exactly the precision's ONNX bytes. Latencies are those at the largest
    batch size, in ms; a backend that was not timed is absent.

    Args:
        variant: its name.
        metrics: of `train` and the stages `STAGES`.
    """
    chosen, earlier = metrics["plan"]["chosen_level"], metrics["train"]["removed"]
    return [
        row
        for at in zip(*(metrics[stage]["levels"] for stage in STAGES), strict=True)
        for row in _level_rows(variant, dict(zip(STAGES, at, strict=True)), chosen, earlier)
    ]


def _level_rows(
    variant: str, at: Mapping[str, Metrics], chosen: int, earlier: Sequence[str]
) -> list[Row]:
    level = at["plan"]["level"]
    rungs = {
        rung["precision"]: rung
        for rung in at["verify"]["rungs"]
        if rung["rung"] == "precision" and rung["backend"] is None
    }
    bn = {"val_accuracy_bn_pct": at["plan"]["val_accuracy_bn_pct"]}
    return [
        {
            "variant": variant,
            "level": level,
            "precision": precision,
            "removed": at["plan"]["removed"],
            "removed_in_training": earlier,
            "replacement": at["plan"]["replacement"],
            "chosen": level == chosen,
            "val_accuracy_pct": rungs[precision]["val_accuracy_pct"],
            **(bn if precision == "fp32" else {}),
            "test_accuracy_pct": rungs[precision]["test_accuracy_pct"],
            "params": at["collapse"]["params"],
            "macs": at["collapse"]["macs"],
            "onnx_bytes": graph["bytes"],
            "engine_bytes": {
                name: engine["bytes"]
                for name, engine in at["build"]["engines"].get(precision, {}).items()
            },
            "latency_ms": {
                name: _at_largest_batch(by_batch)
                for name, by_batch in at["benchmark"]["latency_ms"].get(precision, {}).items()
            },
        }
        for precision, graph in at["precision"]["graphs"].items()
        if rungs[precision]["status"] == "passed"
    ]


def _at_largest_batch(by_batch: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    latency = by_batch[max(by_batch, key=int)]
    return {key: latency[key] for key in ("p50", "p90", "p99")}


def pareto_front(rows: Sequence[Row], backend: str) -> list[Row]:
    """Return the rows that no other row beats in both test accuracy and p50 latency."""
    timed = sorted(
        (row for row in rows if backend in row["latency_ms"]),
        key=lambda row: (row["latency_ms"][backend]["p50"], -row["test_accuracy_pct"]),
    )
    front: list[Row] = []
    for row in timed:
        if not front or row["test_accuracy_pct"] > front[-1]["test_accuracy_pct"]:
            front.append(row)
    return front


def summary_markdown(rows: Sequence[Row], metrics: Mapping[str, Mapping[str, Metrics]]) -> str:
    """Return the rows as Markdown tables, with the protocol and what was not measured and why.

    Args:
        rows: of all variants.
        metrics: ``{variant: {stage: metrics}}``.
    """
    fp32 = [row for row in rows if row["precision"] == "fp32"]
    sections = [
        "## Depth",
        _depth_table(fp32),
        "## Precision",
        _precision_table(rows),
        *_notes(metrics, _union(row["latency_ms"] for row in rows)),
    ]
    return "\n\n".join(sections) + "\n"


def _depth_table(rows: Sequence[Row]) -> str:
    """Return the float32 rows: what a removed block costs and saves."""
    timed = _union(row["latency_ms"] for row in rows)
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
    return _table(header, [_depth_cells(row, timed) for row in rows])


def _depth_cells(row: Row, timed: Sequence[str]) -> list[str]:
    return [
        row["variant"],
        _level(row),
        _removed(row),
        row["replacement"] if row["removed"] else "–",
        f"{row['val_accuracy_pct']:.2f}",
        f"{row['val_accuracy_bn_pct']:.2f}",
        f"{row['test_accuracy_pct']:.2f}",
        f"{row['params'] / 1e3:.0f}",
        f"{row['macs'] / 1e6:.2f}",
        f"{row['onnx_bytes'] / 1e3:.0f}",
        *(_p50(row, name) for name in timed),
    ]


def _removed(row: Row) -> str:
    earlier = [f"{name} (in training)" for name in row["removed_in_training"]]
    return ", ".join([*earlier, *row["removed"]]) or "–"


def _precision_table(rows: Sequence[Row]) -> str:
    """Return a line per level with the accuracy, latency and engine size of every precision."""
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    timed = _union(row["latency_ms"] for row in rows)
    sized = [n for n in _union(row["engine_bytes"] for row in rows) if n not in timed]
    by_level: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        by_level.setdefault((row["variant"], row["level"]), {})[row["precision"]] = row
    header = ["variant", "level", *(f"{precision} test %" for precision in precisions)]
    header += [f"{name} {p} p50 ms" for name in timed for p in precisions]
    header += [f"{name} {p} kB" for name in sized for p in precisions]
    lines = []
    for (variant, _), by in by_level.items():
        cells = [variant, _level(next(iter(by.values())))]
        cells += [f"{by[p]['test_accuracy_pct']:.2f}" if p in by else "–" for p in precisions]
        cells += [_p50(by.get(p), name) for name in timed for p in precisions]
        cells += [_kilobytes(by.get(p), name) for name in sized for p in precisions]
        lines.append(cells)
    return _table(header, lines)


def _level(row: Row) -> str:
    return f"**{row['level']}**" if row["chosen"] else str(row["level"])


def _p50(row: Row | None, backend: str) -> str:
    latency = row and row["latency_ms"].get(backend)
    return f"{latency['p50']:.2f}" if latency else "–"


def _kilobytes(row: Row | None, backend: str) -> str:
    size = row and row["engine_bytes"].get(backend)
    return f"{size / 1e3:.0f}" if size else "–"


def _table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _union(maps: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in maps for name in each))


def _notes(metrics: Mapping[str, Mapping[str, Metrics]], timed: Sequence[str]) -> list[str]:
    """Say what the numbers are, how they were taken, and what is missing."""
    benchmark = next(iter(metrics.values()))["benchmark"]
    protocol, target = benchmark["protocol"], benchmark["target"]
    devices = ", ".join([target["cpu"], *(device["name"] for device in target["devices"])])
    versions = ", ".join(f"{name} {target['versions'][name]}" for name in timed) or "nothing timed"
    notes = [
        "Bold: the chosen level, the deepest within the allowed drop of validation accuracy. "
        "Test accuracy is that of the ONNX file in each precision.",
        f"Latency: batch {max(protocol['batch_sizes'])}, {protocol['threads']} threads, "
        f"{protocol['rounds']} rounds × {protocol['repeats']} repeats, levels and precisions in "
        f"turn, on {devices}; {versions}. All batch sizes, intervals and blocks: `make bench`.",
    ]
    missing = dict.fromkeys(
        line for variant, by_stage in metrics.items() for line in _missing(variant, by_stage)
    )
    return (
        [*notes, "Not measured:", "\n".join(f"- {line}" for line in missing)] if missing else notes
    )


def _missing(variant: str, metrics: Mapping[str, Metrics]) -> list[str]:
    """Say what a variant lacks: backends in general, precisions and engines one by one."""
    reasons = metrics["build"]["not_available"] | metrics["benchmark"]["not_timed"]
    lines = [f"{backend}: {reason}" for backend, reason in sorted(reasons.items())]
    for stage in ("precision", "build"):
        for level in metrics[stage]["levels"]:
            for precision, reason in level["failed"].items():
                by_backend = reason if isinstance(reason, Mapping) else {"": reason}
                for backend, why in by_backend.items():
                    what = " ".join(filter(None, [precision, backend]))
                    lines.append(f"{variant} level {level['level']} {what}: {why}")
    for level in metrics["verify"]["levels"]:
        for rung in level["rungs"]:
            if rung["status"] == "failed":
                what = " ".join(filter(None, [rung["precision"], rung["backend"]]))
                lines.append(f"{variant} level {level['level']} {what}: {rung['reason']}")
    return lines
