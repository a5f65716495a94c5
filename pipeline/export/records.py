"""What `export` writes: metrics/export/<variant>.json; and the size of any graph."""

from dataclasses import dataclass

from pipeline.export.parity import Parity


@dataclass(frozen=True)
class GraphSize:
    """The size of a graph; MACs are multiply-accumulates for one image."""

    nodes: int
    parameters: int  # floating-point constants, batch norm folded as the exporter left it
    macs: int | None  # None where an operator or a shape keeps them from being counted
    size_bytes: int


@dataclass(frozen=True)
class ExportMetrics:
    """The exported graph, its blocks, and how far it is from PyTorch."""

    variant: str
    file: str
    opset: int
    onnx_bytes: int
    blocks: dict[str, str]  # why each cannot be removed; empty where it can
    tolerance: float
    parity: Parity
