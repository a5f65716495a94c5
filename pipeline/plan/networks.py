"""The network of a level: without its blocks, and repaired where that is what is shipped.

`heal`, `collapse` and what compares with PyTorch load a level's network here.
"""

from pathlib import Path

from torch import nn

from models import zoo
from models.replacement import modules
from models.surgery import bypass
from pipeline.core.artifacts import artifacts_dir
from pipeline.plan.records import HealedLevel, PlannedLevel


def planned_network(model: nn.Module, variant: str, level: PlannedLevel | HealedLevel) -> nn.Module:
    """Return a level's network as planned, in evaluation mode on the CPU.

    Args:
        model: the variant's whole network; it is left as it is.
        variant: its name.
        level: of the plan, or repaired.

    Raises:
        ArtifactError: the file of the replacements is missing or damaged.
        BlockError: the network has no such block.
    """
    fitted = artifacts_dir("plan", variant) / f"level_{level.level}.safetensors"
    replacements = {} if level.replacement == "identity" else modules.load(fitted)
    return bypass(model, level.removed, replacements).eval()


def shipped_network(model: nn.Module, variant: str, level: HealedLevel) -> nn.Module:
    """Return a level's network with the weights that are shipped, in evaluation mode on the CPU.

    Args:
        model: the variant's whole network; it is left as it is.
        variant: its name.
        level: as `heal` has it.

    Raises:
        ArtifactError: a file of `plan` or `heal` is missing, damaged or of another network.
        BlockError: the network has no such block.
    """
    network = planned_network(model, variant, level)
    if level.is_repaired:
        zoo.load_weights(network, repaired_weights(artifacts_dir("heal", variant), level))
    return network


def repaired_weights(folder: Path, level: HealedLevel) -> Path:
    """Return the file in the output folder of `heal` that holds a repaired level's weights."""
    return folder / f"level_{level.level}.safetensors"
