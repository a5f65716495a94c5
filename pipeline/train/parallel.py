"""The network as the processes of a training hold it: whole in each, or cut into pieces.

`ddp`: DistributedDataParallel, gradients are averaged. `fsdp`: FSDP2 (`fully_shard`), where each
process keeps a piece of every parameter and a block's are put together only while it runs. In both,
a process's gradients are those of its own images, scaled so that their mean over the processes is
the gradient of the whole batch. One process alone is a replica that has no others.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from models.batch_norm import batch_norms
from models.cpu_faults import memory_format
from models.errors import ShoalError
from models.surgery import module_paths
from models.units import Unit
from pipeline.core.distributed import from_first, sum_over_processes, world_size
from pipeline.core.params import Train

State = dict[str, Any]


class Replicas:
    """The whole network in every process; all of them call the same methods at the same time."""

    def __init__(self, model: nn.Module, units: Sequence[Unit], device: torch.device) -> None:
        self.format = memory_format(model, device)
        model.to(device=device, memory_format=self.format)  # type: ignore[call-overload]
        self.model = model  # to look into, to evaluate, and to remove blocks from
        self.forward = model  # the same to train with
        self.device = device

    def wrap(self, *, varying: bool) -> None:
        """Prepare for training the network as it is now, as the first process has it.

        Args:
            varying: whether the parameters that get a gradient change from step to step.
        """
        self.forward = self.model  # the last wrapper's hooks are removed before the next one's come
        if world_size() > 1:
            self.forward = DistributedDataParallel(
                self.model, forward_sync_buffers=False, find_unused_parameters=varying
            )

    def state(self, optimizer: Optimizer) -> State:
        """Return `model` and `optimizer` as the first process is to save them."""
        return {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}

    def hand_out(self, state: State | None) -> State:
        """Return in all processes what the first has read from a checkpoint."""
        handed_out = from_first(state)
        assert handed_out is not None
        return handed_out

    def load(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned and `hand_out` handed out, but for what is in pieces.

        Raises:
            RuntimeError, ValueError, KeyError: it is the state of another training.
        """
        self.model.to(self.device)  # maps came with the checkpoint
        self.model.load_state_dict(state["model"], strict=True)
        optimizer.load_state_dict(state["optimizer"])

    def scatter(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Hand out the pieces of what `load` took up; any error is one of the processes."""

    def finish(self) -> None:
        """Leave the trained weights in the network that came in, of the first process at least."""


class Shards(Replicas):
    """A piece of the network in every process; the network that came in stays whole, on the CPU.

    Every removable unit is put together by itself, all the rest at once. What torch has for it
    takes more than a second to import, and is imported here alone.
    """

    def __init__(self, model: nn.Module, units: Sequence[Unit], device: torch.device) -> None:
        from torch.distributed.checkpoint import state_dict
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if world_size() == 1:
            raise ShoalError(
                "train.parallel = 'fsdp' cuts a network up among processes and this is the only "
                "one; set train.processes above 1, start it by torchrun, or take ddp"
            )
        self.format = memory_format(model, device)
        self.whole, self.model = model, copy.deepcopy(model)
        mesh = init_device_mesh(device.type, (world_size(),))
        for path in (path for unit in units for path in module_paths(unit.name)):
            fully_shard(self.model.get_submodule(path), mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.forward = self.model
        self.states = state_dict
        self.gather = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
        self.scattered = state_dict.StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=True
        )

    def wrap(self, *, varying: bool) -> None:
        """Do nothing: the pieces are cut once, blocks cannot be removed."""

    def state(self, optimizer: Optimizer) -> State:
        """See `Replicas`; of the other processes it is empty."""
        return {
            "model": self._weights(),
            "optimizer": self.states.get_optimizer_state_dict(
                self.model, optimizer, options=self.gather
            ),
        }

    def hand_out(self, state: State | None) -> State:
        """See `Replicas`; model and optimizer are handed out in pieces later."""
        large = {key: (state or {}).get(key, {}) for key in ("model", "optimizer")}
        return from_first({k: v for k, v in (state or {}).items() if k not in large}) | large

    def load(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """See `Replicas`: the first process, which alone has weights, finds whether they fit."""
        if weights := state["model"]:
            self.whole.load_state_dict(weights, strict=True)

    def scatter(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """See `Replicas`."""
        options = self.scattered
        self.states.set_model_state_dict(self.model, state["model"], options=options)
        self.states.set_optimizer_state_dict(
            self.model, optimizer, state["optimizer"], options=options
        )

    def finish(self) -> None:
        """See `Replicas`: of the first process alone."""
        if weights := self._weights():
            self.whole.load_state_dict(weights, strict=True)

    def _weights(self) -> dict[str, Any]:
        return self.states.get_model_state_dict(self.model, options=self.gather)


PARALLEL: dict[str, type[Replicas]] = {"ddp": Replicas, "fsdp": Shards}


def in_parallel(
    model: nn.Module, units: Sequence[Unit], params: Train, device: torch.device
) -> Replicas:
    """Return the network as `params` want it in several processes, or whole in the only one.

    Raises:
        ShoalError: the device cannot do it, or there is one process for `fsdp`.
    """
    if params.sync_batch_norm and world_size() > 1:
        model = synchronise_batch_norm(model, device)
    return PARALLEL[params.parallel](model, units, device)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Return `model` with batch norms that take the statistics of all processes' images together.

    Raises:
        ShoalError: the device is a CPU, for which torch has none.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    if device.type == "cpu":
        raise ShoalError(
            "train.sync_batch_norm needs CUDA devices, and training is on the CPU; set it to "
            "false, or train.processes to 1"
        )
    synchronised: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return synchronised


def require_enough_for_all(images: Mapping[str, int]) -> None:
    """Raise `ShoalError` where several processes would not get two images each.

    Args:
        images: numbers of images, by what has them.
    """
    least = 2 * world_size()
    for what, number in images.items():
        if number < least and world_size() > 1:
            raise ShoalError(
                f"{what} is {number}, and {world_size()} processes need two images each; take "
                f"fewer processes, or at least {least} images"
            )


def average_batch_norm(model: nn.Module) -> None:
    """Give every process the mean of the running statistics that each kept of its own images."""
    for norm in batch_norms(model):
        for kept in (norm.running_mean, norm.running_var):
            if kept is not None:
                kept.copy_(sum_over_processes(kept) / world_size())
