"""Rows of a summary, made up."""

from dataclasses import replace
from typing import Any

from pipeline.core.params import Choose
from pipeline.report.recommendation import choose
from pipeline.report.records import EngineRow, NetworkRow, Summary

Rows = list[tuple[NetworkRow, list[EngineRow]]]


def network(variant: str, level: int, val: float, **changes: Any) -> NetworkRow:
    """A network of which as many blocks are removed as its level says."""
    plain = NetworkRow(
        variant=variant,
        level=level,
        precision="fp32",
        removed=[f"layer1.{k}" for k in range(level)],
        removed_in_training=[],
        replacement="identity",
        shipped="removed",
        chosen=False,
        val_accuracy_pct=val,
        test_accuracy_pct=val - 0.5,
        val_accuracy_by_repair_pct={},
        healing=None,
        params=10,
        macs=20,
        onnx_bytes=30,
    )
    return replace(plain, **changes)


def engine(of: NetworkRow, ms: float, backend: str = "onnxruntime") -> EngineRow:
    """An engine of a network that is as accurate and was timed."""
    accuracies = (of.val_accuracy_pct, of.test_accuracy_pct)
    return EngineRow(*of.key, backend, 40, {}, *accuracies, 8, ms, None, ms, ms + 1, ms + 2)


def summary(rows: Rows, limits: Choose) -> Summary:
    networks = [of for of, _ in rows]
    engines = [one for _, own in rows for one in own]
    return Summary(choose(networks, engines, limits), {}, networks, engines)
