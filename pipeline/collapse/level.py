"""A level's graph: collapsed, proven equal to PyTorch, measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.cost import count_macs, count_parameters
from models.hashing import file_sha256
from models.replacement.modules import maps_in
from pipeline.collapse.channel_maps import as_maps
from pipeline.collapse.records import CollapsedLevel
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.core.params import Collapse
from pipeline.data.dataset import Dataset
from pipeline.export.parity import compare, require
from pipeline.export.session import runner


def collapse_level(
    level: int,
    shallow: nn.Module,
    removed: Sequence[str],
    source: Path,
    folder: Path,
    *,
    made_by: Literal["collapse", "export"],
    data: Dataset,
    params: Collapse,
) -> CollapsedLevel:
    """Write a level's graph, compare it with the PyTorch network that it must equal, measure it.

    Args:
        level: its number.
        shallow: the PyTorch network, on the CPU.
        removed: the blocks to remove.
        source: the graph with these blocks in it.
        folder: gets ``level_<n>.onnx``.
        made_by: export where `source` is the graph of a repaired network, else collapse.
        data: parity is measured on validation images, accuracy on validation and test.
        params: the `collapse` section.

    Raises:
        BlockError, ArtifactError: as `collapse_onnx`.
        ParityError: the graph is not the network.
    """
    target = folder / f"level_{level}.onnx"
    report = collapse_onnx(source, target, removed, as_maps(maps_in(shallow, removed)))
    run = runner(target)
    images = data.normalised(data.validation.sample(params.samples))
    parts = torch.split(images, data.evaluation_batch)
    with torch.inference_mode():
        wanted = torch.cat([shallow(part) for part in parts]).numpy()
    parity = compare(wanted, np.concatenate([run(part.numpy()) for part in parts]))
    require(parity, params.tolerance, f"{target.name} without {', '.join(removed)}")

    def forward(x: Tensor) -> Tensor:
        return torch.from_numpy(run(x.numpy()))

    return CollapsedLevel(
        level=level,
        made_by=made_by,
        removed=report.removed,
        file=target.name,
        sha256=file_sha256(target),
        params=count_parameters(shallow),
        # A map that was fused with a convolution costs nothing in the graph.
        macs=report.after.macs or count_macs(shallow, images),
        nodes=report.after.nodes,
        onnx_bytes=report.after.size_bytes,
        before=report.before,
        after=report.after,
        parity=parity,
        val_accuracy_pct=data.validation_accuracy_pct(forward),
        test_accuracy_pct=data.accuracy_pct(data.test, forward),
    )
