"""Bring the stages' metrics together: one row per variant and level, as JSON and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage
Row = dict[str, Any]


def summary_rows(
    variant: str, plan: Metrics, collapse: Metrics, build: Metrics, benchmark: Metrics
) -> list[Row]:
    """Return one row per level of a variant.

    Latencies are those at the largest batch size, in ms; a backend that was not timed is absent.
    """
    levels = zip(
        plan["levels"], collapse["levels"], build["levels"], benchmark["levels"], strict=True
    )
    return [
        {
            "variant": variant,
            "level": planned["level"],
            "removed": planned["removed"],
            "chosen": planned["level"] == plan["chosen_level"],
            "val_accuracy_pct": planned["val_accuracy_pct"],
            "val_accuracy_bn_pct": planned["val_accuracy_bn_pct"],
            "test_accuracy_pct": graph["test_accuracy_pct"],
            "params": graph["params"],
            "macs": graph["macs"],
            "onnx_bytes": graph["onnx_bytes"],
            "engine_bytes": {name: engine["bytes"] for name, engine in built["engines"].items()},
            "latency_ms": {
                name: _at_largest_batch(by_batch) for name, by_batch in timed["latency_ms"].items()
            },
        }
        for planned, graph, built, timed in levels
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


def summary_markdown(
    rows: Sequence[Row], benchmarks: Mapping[str, Metrics], builds: Mapping[str, Metrics]
) -> str:
    """Return the rows as a Markdown table, with the protocol and what was not measured and why."""
    timed = _union(row["latency_ms"] for row in rows)
    built = _union(row["engine_bytes"] for row in rows)
    header = [
        "variant",
        "level",
        "removed",
        "val %",
        "val %, BN re-estimated",
        "test %",
        "params k",
        "MMACs",
        "ONNX kB",
        *(f"{name} kB" for name in built),
        *(f"{name} p50 ms" for name in timed),
    ]
    lines = [_line(header), _line("---" for _ in header)]
    lines += [_line(_cells(row, built, timed)) for row in rows]
    return "\n".join([*lines, "", *_notes(benchmarks, builds, timed)]) + "\n"


def _union(maps: Any) -> list[str]:
    return list(dict.fromkeys(name for each in maps for name in each))


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(row: Row, built: Sequence[str], timed: Sequence[str]) -> list[str]:
    level = f"**{row['level']}**" if row["chosen"] else str(row["level"])
    engines = [row["engine_bytes"].get(name) for name in built]
    latencies = [row["latency_ms"].get(name) for name in timed]
    return [
        row["variant"],
        level,
        ", ".join(row["removed"]) or "–",
        f"{row['val_accuracy_pct']:.2f}",
        f"{row['val_accuracy_bn_pct']:.2f}",
        f"{row['test_accuracy_pct']:.2f}",
        f"{row['params'] / 1e3:.0f}",
        f"{row['macs'] / 1e6:.2f}",
        f"{row['onnx_bytes'] / 1e3:.0f}",
        *("–" if size is None else f"{size / 1e3:.0f}" for size in engines),
        *("–" if latency is None else f"{latency['p50']:.2f}" for latency in latencies),
    ]


def _notes(
    benchmarks: Mapping[str, Metrics], builds: Mapping[str, Metrics], timed: Sequence[str]
) -> list[str]:
    """Say what the numbers are, how they were taken, and what is missing."""
    protocol = next(iter(benchmarks.values()))["protocol"]
    target = next(iter(benchmarks.values()))["target"]
    devices = ", ".join([target["cpu"], *(device["name"] for device in target["devices"])])
    versions = ", ".join(f"{name} {target['versions'][name]}" for name in timed) or "nothing timed"
    notes = [
        "Bold: the chosen level, the deepest within the allowed drop of validation accuracy. "
        "Test accuracy is that of the collapsed ONNX file.",
        f"Latency: batch {max(protocol['batch_sizes'])}, {protocol['threads']} threads, "
        f"{protocol['rounds']} rounds × {protocol['repeats']} repeats with the levels in turn, "
        f"on {devices}; {versions}.",
    ]
    missing: dict[str, str] = {}
    for metrics, key in [(benchmarks, "not_timed"), (builds, "not_available")]:
        for variant in metrics.values():
            missing |= variant[key]
    reasons = [f"- {name}: {reason}" for name, reason in sorted(missing.items())]
    return [*notes, "", "Not measured:", "", *reasons] if reasons else notes
