"""The results of `make bench` as Markdown and as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.protocol import protocol_lines
from pipeline.verdict import Verdict, sentence

Row = Mapping[str, Any]
FEW = 3  # engines that are named one by one where they share a reason

COLUMNS = (
    *("variant", "level", "removed", "chosen", "precision", "backend", "batch"),
    *("val_accuracy_pct", "test_accuracy_pct", "p50_ms", "p50_ci_low_ms", "p50_ci_high_ms"),
    *("p90_ms", "p99_ms", "images_per_s", "times_reference", "device_p50_ms", "settled"),
    *("energy_mj_per_image", "not_timed"),
)


def as_csv(result: Row) -> str:
    """Return one line per engine and batch size, and one per engine that was not timed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) for row in result["rows"])
    for one in result["not_timed"]:
        engine = {key: one[key] for key in ("variant", "level", "precision", "backend")}
        writer.writerow(engine | {"not_timed": one["reason"]})
    return text.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    flat = {key: row[key] for key in COLUMNS if key in row}
    flat["removed"] = " ".join(row["removed"])
    flat["energy_mj_per_image"] = _energy(row)
    if "p50_ci_ms" in row:
        flat["p50_ci_low_ms"], flat["p50_ci_high_ms"] = row["p50_ci_ms"]
    if "device_ms" in row:
        flat["device_p50_ms"] = row["device_ms"]["p50"]
    return flat


def as_markdown(result: Row) -> str:
    """Return the table, the verdicts at the largest batch, the protocol and what is missing."""
    sections = ["# Bench", _table(result["rows"], result["reference"])]
    sections += _section("## Verdicts", [_verdict(one) for one in _at_largest(result)])
    sections += _section("## Protocol", [*protocol_lines(result["protocol"]), _machine(result)])
    sections += _section("## Not timed", _missing(result["not_timed"]))
    without = [f"{meter}: {reason}" for meter, reason in result["no_energy"].items()]
    sections += _section("## Meters of energy that cannot be read", without)
    unsettled = [_engine(row) for row in result["rows"] if not row["settled"]]
    sections += _section("## Never settled in the warm-up", list(dict.fromkeys(unsettled)))
    if result["gate"]:
        sections += ["## Gate", gate_line(result["gate"])]
    return "\n\n".join(sections) + "\n"


def gate_line(gate: Row) -> str:
    """Return in words whether the floor of accuracy is held."""
    floor = f"{gate['min_accuracy_pct']:.2f} % test accuracy"
    if gate["met"]:
        return f"Gate met: {gate['checked']} engines at the chosen levels reach {floor}."
    if not gate["checked"]:
        return f"Gate not met: no engine at a chosen level was timed; {floor} is asked for."
    return f"Gate not met: below {floor}: {'; '.join(gate['below'])}."


def _table(rows: Sequence[Row], reference: str) -> str:
    sizes = sorted({row["batch"] for row in rows})
    if not sizes:
        return "Nothing was timed."
    largest = f"batch {sizes[-1]}"
    header = ["variant", "level", "precision", "backend", "removed", "val %", "test %"]
    header += [f"p50 ms, batch {size}" for size in sizes[:-1]]
    header += [f"p50 ms, {largest}", "95 %", "p90", "p99", "device p50"]
    header += ["images/s", f"times {reference}", "mJ/image"]
    engines: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("variant", "level", "precision", "backend"))
        engines.setdefault(key, {})[row["batch"]] = row
    lines = [_cells(by_size, sizes) for by_size in engines.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def _cells(by_size: Mapping[int, Row], sizes: Sequence[int]) -> list[str]:
    row = by_size[sizes[-1]]
    low, high = row.get("p50_ci_ms", (None, None))
    ratio = row.get("times_reference")
    return [
        row["variant"],
        f"**{row['level']}**" if row["chosen"] else str(row["level"]),
        row["precision"],
        row["backend"],
        str(len(row["removed"])),
        f"{row['val_accuracy_pct']:.2f}",
        f"{row['test_accuracy_pct']:.2f}",
        *(f"{by_size[size]['p50_ms']:.2f}" for size in sizes),
        f"{low:.2f}–{high:.2f}" if low is not None else "–",
        f"{row['p90_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        f"{row['device_ms']['p50']:.2f}" if "device_ms" in row else "–",
        f"{row['images_per_s']:.0f}",
        f"{ratio:.2f}" if ratio else "–",
        _energy(row) or "–",
    ]


def _energy(row: Row) -> str:
    """Return the energy of an image by what used it; empty where none was measured."""
    used = row.get("energy_mj_per_image", {})
    return ", ".join(f"{user} {mj:.3g}" for user, mj in used.items())


def _at_largest(result: Row) -> list[Row]:
    largest = max((row["batch"] for row in result["rows"]), default=0)
    return [one for one in result["verdicts"] if one["batch"] == largest]


def _verdict(one: Row) -> str:
    found = Verdict(**{name: one[name] for name in Verdict.__dataclass_fields__})
    return sentence(f"{one['before']} → {one['after']}, {one['backend']}, {one['step']}", found)


def _machine(result: Row) -> str:
    target, conditions = result["target"], result["conditions"]["after"]
    devices = ", ".join([target["cpu"], *(device["name"] for device in target["devices"])])
    timed = dict.fromkeys(row["backend"] for row in result["rows"])
    versions = "".join(f", {name} {target['versions'][name]}" for name in timed)
    load = f"; load at the end {conditions['load_1min']}" if "load_1min" in conditions else ""
    return f"On {devices}{versions}{load}."


def _missing(refused: Iterable[Row]) -> list[str]:
    """Return one line per backend and reason, with the engines it holds for."""
    by_reason: dict[tuple[str, str], list[Row]] = {}
    for one in refused:
        by_reason.setdefault((one["backend"], one["reason"]), []).append(one)
    return [f"{backend}{_which(ones)}: {reason}" for (backend, reason), ones in by_reason.items()]


def _which(ones: Sequence[Row]) -> str:
    if not ones[0]["precision"]:  # the whole backend
        return ""
    if len(ones) <= FEW:
        return f" ({'; '.join(_engine(one, backend=False) for one in ones)})"
    precisions = ", ".join(dict.fromkeys(one["precision"] for one in ones))
    return f" ({len(ones)} engines, {precisions})"


def _engine(one: Row, *, backend: bool = True) -> str:
    parts = [one["variant"], f"level {one['level']}", one["precision"]]
    batch = f", batch {one['batch']}" if "batch" in one else ""
    return " ".join(parts + ([one["backend"]] if backend else [])) + batch


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, "\n".join(f"- {line}" for line in lines)] if lines else []
