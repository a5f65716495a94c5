"""Train a network on cross-entropy + λ·R (LaCoOT, arXiv 2406.08933, section 4), resumably.

Under some strategies (`pipeline.train.strategies`) blocks are removed meanwhile.

After every epoch the whole state goes to a checkpoint. Each epoch draws its randomness from
(seed, epoch) alone, so a run that was killed and continued ends with the same weights as one
that was not (bit for bit on the CPU with one thread). Several processes may share the work
(`pipeline.train.parallel`): all of them call `train` alike, the first decides and writes for all.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.cpu_faults import padding_in_float32
from models.errors import ShoalError, enough_memory
from models.units import Unit
from pipeline.core.devices import pick_precision
from pipeline.core.distributed import from_first, own_share, sum_over_processes, world_size
from pipeline.core.params import Train
from pipeline.core.progress import progress
from pipeline.data.dataset import Dataset, batch_sizes
from pipeline.distances.estimators import ESTIMATORS
from pipeline.train.calibration import Calibration
from pipeline.train.checkpoints import State, is_there
from pipeline.train.cost import TrainingCost
from pipeline.train.distillation import task_loss
from pipeline.train.epoch import (
    require_finite,
    require_logits,
    rows,
    seed,
    training_batches,
    validated,
)
from pipeline.train.optimizers import learning_rate, optimizer
from pipeline.train.parallel import average_batch_norm, in_parallel, require_enough_for_all
from pipeline.train.penalty import block_penalty
from pipeline.train.records import EpochLog, Learning
from pipeline.train.strategies import STRATEGIES


@dataclass(frozen=True)
class Trained:
    """What a training leaves beside the weights."""

    history: list[EpochLog]
    removed: list[str]  # blocks removed while it trained, in that order
    maps: dict[str, int]  # of these, those that a map replaces: the axis of its channels


def train(
    model: nn.Module,
    data: Dataset,
    params: Train,
    blocks: Sequence[Unit],
    *,
    device: torch.device,
    checkpoint: Path,
    log: Callable[[EpochLog], None],
    teacher: nn.Module | None = None,
) -> Trained:
    """Train `model` in place; return one entry per epoch, and the blocks that were removed.

    Args:
        model: a freshly created network. Cut up among processes (`parallel: fsdp`) it stays on the
            CPU, and only the first has the trained weights in it afterwards.
        data: prepared images; train is learnt from, validation is only looked at.
        params: the `train` section, the penalty included.
        blocks: removable units; the penalty is the mean over them.
        device: where to train.
        checkpoint: file of the resumable state; continued from where it exists. Only the first
            process looks at it.
        log: called with each entry, those of a resumed run's past included.
        teacher: a trained network whose logits are learnt from too, as `distill` says.

    Raises:
        DivergedError: the loss or the weights are not finite; the epoch before is kept.
        OutOfMemoryError: a batch does not fit into memory.
        ShoalError: a penalty is asked for and no block is removable, or there are too few images
            for so many processes.
        BlockError: the strategy is to remove blocks that there are not.
    """
    if params.penalty.weight > 0 and not blocks:
        raise ShoalError("the penalty needs a removable block and this network has none")
    require_enough_for_all(
        {
            "train.batch_size": params.batch_size,
            "the number of training images": params.images_per_epoch or len(data.train),
            "the number of validation images": len(data.validation),
        }
    )
    training = _Training(model, data, params, blocks, device, teacher)
    state, strategy = training.state, training.strategy
    if from_first(is_there(checkpoint)):
        state.resume(checkpoint)
        for entry in state.history:
            log(entry)
    state.parallel.wrap(varying=strategy.varies)
    for epoch in range(len(state.history), params.epochs):
        entry = training.epoch(epoch, checkpoint)
        state.history.append(entry)
        state.save(checkpoint)
        log(entry)
    state.parallel.finish()
    axes = {name: replacement.axis for name, replacement in strategy.maps.items()}
    return Trained(state.history, strategy.removed, axes)


class _Training:
    """A training under way: its settings, what it works on, and its state."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        params: Train,
        blocks: Sequence[Unit],
        device: torch.device,
        teacher: nn.Module | None,
    ) -> None:
        self.data, self.params, self.blocks, self.device = data, params, blocks, device
        self.parallel = in_parallel(model, blocks, params, device)
        self.model = self.parallel.model
        self.dtype = pick_precision(params.precision, device)  # of autocast; float32 is none
        calibration = Calibration(self.model, data, params, device)
        self.strategy = STRATEGIES[params.strategy.name](
            self.model, blocks, params.strategy, calibration
        )
        self.state = State(
            self.parallel,
            optimizer(self.model, params),
            torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16),
            ESTIMATORS[params.penalty.estimator](params.penalty.projections),
            self.strategy,
        )
        self.task_loss = task_loss(teacher, params.distill, device, self.dtype)
        example = torch.zeros((1, data.channels, data.image_size, data.image_size), device=device)
        self.cost = TrainingCost(self.model, example, teacher)

    def epoch(self, epoch: int, checkpoint: Path) -> EpochLog:
        """Train for an epoch, then validate."""
        started = time.perf_counter()
        self.strategy.before_epoch(random.Random(seed(self.params, epoch, 3)))
        with enough_memory(self.less_memory(self.params.batch_size)):
            learned = self.learn(epoch)
        trained = time.perf_counter()

        removed = self.strategy.removed
        restart = None if removed else checkpoint  # from it another training would start whole
        every = self.model.state_dict() | dict(self.model.named_parameters())
        weights = {f"the weights of {k}": v for k, v in every.items()}
        learnt = {"the loss": learned["loss"], **weights}
        require_finite(learnt, epoch + 1, self.params, restart)

        present = [unit for unit in self.blocks if unit.name not in removed]
        projections = self.params.penalty.projections
        with enough_memory(self.less_memory()):
            accuracy, distances = validated(
                self.model, self.data, present, self.device, projections
            )
        self.strategy.after_epoch()
        measured = {f"the distance at {name}": value for name, value in distances.items()}
        require_finite(measured, epoch + 1, self.params, restart)
        return {
            "epoch": epoch + 1,
            **learned,
            "val_accuracy_pct": accuracy,
            "distances": distances,
            "removed": list(removed),
            "images_per_s": learned["images_seen"] / (trained - started),
            "seconds": time.perf_counter() - started,
        }

    def learn(self, epoch: int) -> Learning:
        """Pass over the epoch's images once."""
        params, strategy = self.params, self.strategy
        torch.manual_seed(seed(params, epoch, 0) + (own_share().rank << 40))  # dropout, drop path
        chosen = rows(self.data, params, epoch)
        sizes = batch_sizes(len(chosen), params.batch_size, world_size())
        sums = torch.zeros(2, device=self.device)  # task loss, penalty
        rate, macs = params.learning_rate, 0
        loader = progress(
            training_batches(self.data, params, epoch, chosen, self.device),
            f"epoch {epoch + 1}/{params.epochs}",
            total=len(sizes),
            unit="batch",
        )
        self.model.train()
        with self.exact(), self.penalty(epoch) as penalty:
            for step, (size, (images, labels)) in enumerate(zip(sizes, loader, strict=True)):
                done = (epoch * len(sizes) + step) / (params.epochs * len(sizes))
                if removed := strategy.before_step(done):
                    self.state.train_replacements(removed)
                    self.parallel.wrap(varying=strategy.varies)
                rate = learning_rate(done, params)
                # The mean of the processes' losses is then the mean over all of the images.
                weight = world_size() * len(images) / size
                sums += self.step(images, labels, rate, weight, penalty)
                strategy.after_step()
                macs += size * self.cost.per_image(strategy.removed, strategy.bypassed)
        average_batch_norm(self.model)
        means = sum_over_processes(sums) / (world_size() * len(sizes))
        task, mean_penalty = means.tolist()
        return {
            "learning_rate": rate,
            "loss": task + params.penalty.weight * mean_penalty,
            "task_loss": task,
            "penalty": mean_penalty,
            "images_seen": len(chosen),
            "macs_spent": macs,
        }

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        rate: float,
        weight: float,
        penalty: Callable[[], Tensor],
    ) -> Tensor:
        """Take one optimiser step; return (weighted task loss, penalty), on the device."""
        optimizer, scaler = self.state.optimizer, self.state.scaler
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            images = images.to(memory_format=self.parallel.format)
            logits = self.parallel.forward(images)
        require_logits(logits, len(images), len(self.data.classes), self.model)
        task, extra = weight * self.task_loss(images, logits, labels), penalty()
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = scaler.scale(task + self.params.penalty.weight * extra)
        loss.backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        return torch.stack([task.detach(), extra.detach()])

    def less_memory(self, batch_size: int = 0) -> str:
        """Return what to do where the images of one batch are too many."""
        if batch_size > 2:
            return f"lower train.batch_size (now {batch_size})"
        size = self.data.image_size
        return (
            f"lower prepare.image_size (now {size}), take a smaller network, or end other programs"
        )

    def exact(self) -> AbstractContextManager[None]:
        """Keep out of bf16 what the CPU computes wrongly in it."""
        wrong = self.device.type == "cpu" and self.dtype == torch.bfloat16
        return padding_in_float32(self.model) if wrong else nullcontext()

    def penalty(self, epoch: int) -> AbstractContextManager[Callable[[], Tensor]]:
        """Return R as a function; where λ = 0 nothing is hooked and it is the constant 0."""
        if self.params.penalty.weight == 0:
            zero = torch.zeros((), device=self.device)
            return nullcontext(lambda: zero)
        generator = torch.Generator(self.device).manual_seed(seed(self.params, epoch, 1))
        return block_penalty(self.model, self.blocks, self.state.estimator, generator)
