"""The networks drawn as strips of blocks, a strip per level, the removed ones marked."""

from dataclasses import dataclass

from pipeline.plan.scoring.records import ScoredUnit
from pipeline.report.block_order import in_order
from pipeline.report.markdown import dead_blocks
from pipeline.report.metrics import Metrics, VariantMetrics
from pipeline.report.records import NetworkRow, Summary


@dataclass(frozen=True)
class Cell:
    """A block at a level: ``kept``, ``fixed`` (not removable), ``removed`` or ``earlier``.

    ``earlier`` is one that was removed in training.
    """

    state: str
    text: str


@dataclass(frozen=True)
class Strip:
    """A level of a variant."""

    level: int
    cells: list[Cell]
    val_accuracy_pct: float
    chosen: bool
    recommended: bool


@dataclass(frozen=True)
class BlockDiagram:
    """A variant's blocks, in the order in which they run, and its levels."""

    variant: str
    blocks: list[str]
    strips: list[Strip]
    dead: dict[str, str]  # blocks whose branch only adds a constant, and what shows it


def block_diagrams(summary: Summary, metrics: Metrics) -> list[BlockDiagram]:
    """Return a diagram per variant; of its networks those in float32."""
    return [_diagram(summary, variant, own) for variant, own in metrics.items()]


def _diagram(summary: Summary, variant: str, metrics: VariantMetrics) -> BlockDiagram:
    known = {block.name: block for block in metrics.score.blocks}
    blocks = in_order(known, metrics.train.removed)
    chosen = summary.recommendation.chosen
    strips = [
        Strip(
            row.level,
            [_cell(name, known.get(name), row) for name in blocks],
            row.val_accuracy_pct,
            row.chosen,
            chosen is not None and (chosen.variant, chosen.level) == (variant, row.level),
        )
        for row in summary.networks
        if (row.variant, row.precision) == (variant, "fp32")
    ]
    return BlockDiagram(variant, blocks, strips, dead_blocks(metrics))


def _cell(name: str, block: ScoredUnit | None, row: NetworkRow) -> Cell:
    if block is None:
        return Cell("earlier", f"{name}: removed in training")
    if name in row.removed:
        return Cell("removed", f"{name}: removed, replaced by {row.replacement}")
    if not block.removable:
        return Cell("fixed", f"{name}: {block.reason}")
    return Cell("kept", f"{name}: kept")
