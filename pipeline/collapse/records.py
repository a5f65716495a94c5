"""What `collapse` writes: metrics/collapse/<variant>.json."""

from dataclasses import dataclass
from typing import Literal

from pipeline.export.parity import Parity
from pipeline.export.records import GraphSize


@dataclass(frozen=True)
class CollapsedLevel:
    """A level's graph, how large it is, and how far it is from the PyTorch network it must be."""

    level: int
    made_by: Literal["collapse", "export"]
    removed: list[str]
    file: str
    sha256: str
    params: int
    macs: int  # for one image
    nodes: int
    onnx_bytes: int
    before: GraphSize
    after: GraphSize
    parity: Parity
    val_accuracy_pct: float
    test_accuracy_pct: float


@dataclass(frozen=True)
class CollapseMetrics:
    """Every level's graph."""

    variant: str
    samples: int
    tolerance: float
    levels: list[CollapsedLevel]
