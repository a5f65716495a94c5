"""The text of docs/zoo.md: what worked, counted, and a row for every family."""

from importlib.metadata import version
from typing import Any

from pipeline.engines.backends.probe import probe

STEPS = ["find", "bypass", "export", "collapse", "parity", "engine", "done"]

Row = dict[str, Any]


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, counts first."""
    lines = [
        "# Every architecture",
        "",
        f"Written by `python -m benchmarks.zoo` on {_machine()}. Of each timm "
        "family the smallest network in which at least three blocks can be removed (of the four "
        "smallest, the best), with random weights, at the smallest image size at which it runs. A "
        "third of the removable blocks is taken out. Parity is the largest difference between the "
        "logits of PyTorch's bypassed network and of the collapsed ONNX graph, relative to the "
        "largest logit (it must be ≤ 1e-4) and, of the signal, to the largest once the mean over "
        "the images is taken off (≤ 1e-3); change is the same between the whole network and the "
        "bypassed one, so that a bypass without effect would show. Engines are built for compute "
        "capability 8.9, not run.",
        "",
        *_summary(rows),
        "",
        "| family | network | pixels | parameters, M | blocks | removable | out | change | parity "
        "| of the signal | MACs left, % | engine, MB | what failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(row) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _summary(rows: list[Row]) -> list[str]:
    """Return how many rows passed each step."""

    def passed(step: str) -> int:
        return sum(STEPS.index(row["step"]) > STEPS.index(step) for row in rows if _ran(row))

    return [
        f"- {len(rows)} networks of {len({row['family'] for row in rows})} families, "
        f"{sum(row.get('removable', 0) for row in rows)} removable blocks of "
        f"{sum(row.get('blocks', 0) for row in rows)}",
        f"- with removable blocks: {sum(row.get('removable', 0) > 0 for row in rows)}",
        f"- bypassed in PyTorch: {passed('bypass')}",
        f"- exported to ONNX: {passed('export')}",
        f"- collapsed, parity ≤ 1e-4: {passed('parity')}",
        f"- TensorRT-RTX engine built: {passed('engine')}",
    ]


def _ran(row: Row) -> bool:
    return row["step"] in STEPS


def _line(row: Row) -> str:
    cells = [
        row["family"],
        row.get("name", "–"),
        _number(row.get("size"), "d"),
        _number(row.get("parameters"), ".1f", 1e-6),
        *(_number(row.get(key), "d") for key in ("blocks", "removable", "removed")),
        _number(row.get("change"), ".2f"),
        _number(row.get("parity"), ".0e"),
        _number(row.get("parity_of_signal"), ".0e"),
        _number(_macs_left(row), ".0f", 100),
        _number(row.get("engine_bytes"), ".1f", 1e-6),
        f"{row['step']}: {row['reason']}".replace("|", "/") if row.get("reason") else "",
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str, scale: float = 1) -> str:
    return "–" if value is None else format(value * scale, form)


def _macs_left(row: Row) -> float | None:
    before, after = row.get("macs_before"), row.get("macs_after")
    return after / before if before and after else None


def _machine() -> str:
    here = probe()
    packages = ["torch", "timm", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx"]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    devices = [device["name"] for device in here["devices"]] or ["no GPU"]
    return f"{here['cpu']}, {here['cores']} cores, {', '.join(devices)}, {versions}"
