"""The network of a level: without its blocks, and repaired where that is what is shipped.

`heal`, `collapse` and whoever compares with PyTorch take a level's network from here. A level is
given by its entry in the metrics of `plan` or `heal`.
"""

from pathlib import Path

from torch import nn

from models import replacements, zoo
from models.surgery import bypass
from pipeline.artifacts import artifacts_dir
from pipeline.repairs import Level, is_repaired


def planned_network(model: nn.Module, variant: str, level: Level) -> nn.Module:
    """Return a level's network as `plan` left it, in evaluation mode on the CPU.

    Args:
        model: the variant's whole network; it is left as it is.
        variant: its name.
        level: an entry of `plan` or `heal`.

    Raises:
        ArtifactError: the file of what stands in for the blocks is missing or damaged.
        BlockError: the network has no such block.
    """
    fitted = artifacts_dir("plan", variant) / f"level_{level['level']}.safetensors"
    stand_ins = {} if level["replacement"] == "identity" else replacements.load(fitted)
    return bypass(model, level["removed"], stand_ins).eval()


def shipped_network(model: nn.Module, variant: str, level: Level) -> nn.Module:
    """Return a level's network with the weights that are shipped, in evaluation mode on the CPU.

    Args:
        model: the variant's whole network; it is left as it is.
        variant: its name.
        level: an entry of `heal`.

    Raises:
        ArtifactError: a file of `plan` or `heal` is missing, damaged or of another network.
        BlockError: the network has no such block.
    """
    network = planned_network(model, variant, level)
    if is_repaired(level):
        zoo.load_weights(network, repaired_weights(artifacts_dir("heal", variant), level))
    return network


def repaired_weights(folder: Path, level: Level) -> Path:
    """Return the file in the output folder of `heal` that holds a repaired level's weights."""
    return folder / f"level_{level['level']}.safetensors"
