"""Train a network on cross-entropy + λ·R (LaCoOT, arXiv 2406.08933, section 4), resumably.

Under some strategies (`pipeline.strategies`) blocks leave the network meanwhile.

After every epoch the whole state goes to a checkpoint. Each epoch draws its randomness from
(seed, epoch) alone, so a run that was killed and continued ends with the same weights as one
that was not (bit for bit on the CPU with one thread). Several processes may share the work
(`pipeline.parallel`): all of them call `train` alike, the first decides and writes for all.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.cost import count_macs
from models.errors import ShoalError
from models.memory import enough_memory
from models.replacements import ChannelMap
from models.units import Unit
from pipeline import checkpoints
from pipeline.criteria import Evidence, gather
from pipeline.data import Dataset, batch_sizes, batches, subset
from pipeline.devices import pick_precision
from pipeline.distillation import TaskLoss, from_labels, from_teacher
from pipeline.distributed import from_first, is_first, own_share, sum_over_processes, world_size
from pipeline.divergence import require_finite
from pipeline.epochs import (
    EVALUATION_BATCH,
    MONITORED_IMAGES,
    rows,
    seed,
    training_batches,
    validated,
)
from pipeline.estimators import ESTIMATORS, Estimator
from pipeline.evaluate import average_batch_norm
from pipeline.optimizers import OPTIMIZERS, learning_rate
from pipeline.parallel import PARALLEL, Parallel, require_enough_for_all, synchronise_batch_norm
from pipeline.params import Score, Train
from pipeline.progress import progress
from pipeline.regularizer import block_penalty
from pipeline.removal import Removal
from pipeline.replacement import StandIns, fit
from pipeline.spending import Spending

EpochLog = dict[str, Any]

REPLACEMENT_IMAGES = 256  # on which maps in the place of blocks are fitted


@dataclass(frozen=True)
class Trained:
    """What a training leaves beside the weights."""

    history: list[EpochLog]
    removed: list[str]  # blocks taken out while it trained, in that order
    maps: dict[str, int]  # of these, those that a map stands in for: the axis of its channels


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
    """Train `model` in place; return one entry per epoch, and the blocks it lacks now.

    Args:
        model: a freshly created network. Cut up among processes (`parallel: fsdp`) it stays on the
            CPU, and only the first has the trained weights in it afterwards.
        data: prepared images; train is learnt from, validation is only looked at.
        params: the `train` section, the penalty included.
        blocks: removable units; the penalty is the mean over them.
        device: where to train.
        checkpoint: file of the resumable state; continued from where it exists. Only the first
            process looks at it.
        log: called with each entry, those of a resumed run's past included: learning rate,
            losses, validation accuracy, distance per block, images/s, seconds, the blocks taken
            out so far, and the MACs of all forward passes over training images.
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
    if params.sync_batch_norm and world_size() > 1:
        model = synchronise_batch_norm(model, device)
    parallel = PARALLEL[params.parallel](model, blocks, device)
    model = parallel.model
    dtype = pick_precision(params.precision, device)
    ranking = Score(
        seed=params.seed,
        samples=MONITORED_IMAGES,
        projections=params.penalty.projections,
        recovery_images=0,  # the training itself is what the network recovers by
    )

    def measure(units: Sequence[Unit], together: int) -> Evidence:
        return gather(model, units, data, ranking, device, together=together)

    def fit_maps(names: Sequence[str]) -> StandIns:
        some = subset(data.train, REPLACEMENT_IMAGES, params.seed)
        loader = batches(some, EVALUATION_BATCH, mean=data.mean, std=data.std, device=device)
        fitted = fit(model.eval(), names, params.strategy.replacement, (x for x, _ in loader))
        model.train()
        return fitted

    example = torch.zeros((1, data.channels, data.image_size, data.image_size), device=device)
    run = _Run(
        parallel=parallel,
        data=data,
        params=params,
        blocks=blocks,
        device=device,
        dtype=dtype,
        optimizer=OPTIMIZERS[params.optimizer](model, params),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        estimator=ESTIMATORS[params.penalty.estimator](params.penalty.projections),
        history=[],
        removal=Removal(model, blocks, params.strategy, measure, fit_maps),
        task=from_labels,
        spending=Spending(model, example),
    )
    if teacher is not None:
        teacher.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        run.task = from_teacher(teacher, params.distill, dtype)
        run.spending.besides = count_macs(teacher, example)
    if from_first(checkpoint.exists()):
        run.resume(checkpoint)
        for entry in run.history:
            log(entry)
    parallel.wrap(varying=run.removal.samples)
    for epoch in range(len(run.history), params.epochs):
        with enough_memory(f"lower train.batch_size (now {params.batch_size})"):
            entry = run.train_and_validate(epoch, checkpoint)
        run.history.append(entry)
        run.save(checkpoint)
        log(entry)
    parallel.finish()
    axes = {name: stand_in.axis for name, stand_in in run.removal.maps.items()}
    return Trained(run.history, run.removal.gone, axes)


@dataclass
class _Run:
    """A training under way: what changes from epoch to epoch and what it works on."""

    parallel: Parallel
    data: Dataset
    params: Train
    blocks: Sequence[Unit]
    device: torch.device
    dtype: torch.dtype  # of autocast; float32 is none
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    estimator: Estimator  # of the penalty; what it remembers is part of the checkpoint
    history: list[EpochLog]
    removal: Removal
    task: TaskLoss
    spending: Spending
    elapsed: float = 0.0  # share of the training that is over

    @property
    def model(self) -> nn.Module:
        return self.parallel.model

    def train_and_validate(self, epoch: int, checkpoint: Path) -> EpochLog:
        started = time.perf_counter()
        with self.removal.faded(lambda: self.elapsed):
            entry: EpochLog = {"epoch": epoch + 1} | self.train_epoch(epoch)
            trained = time.perf_counter()
            self.require_finite(entry, checkpoint)
            there = [unit for unit in self.blocks if unit.name not in self.removal.gone]
            entry |= validated(
                self.model, self.data, there, self.device, self.params.penalty.projections
            )
        self.require_finite(entry, checkpoint)
        entry |= {"removed": list(self.removal.gone)}
        entry["images_per_s"] = entry["images_seen"] / (trained - started)
        entry["seconds"] = time.perf_counter() - started
        return entry

    def require_finite(self, entry: EpochLog, checkpoint: Path) -> None:
        whole = not self.removal.gone
        require_finite(entry, self.model, self.params, checkpoint, whole=whole)

    def train_epoch(self, epoch: int) -> EpochLog:
        """Pass over the epoch's images once; return the last learning rate and the mean losses."""
        params = self.params
        torch.manual_seed(seed(params, epoch, 0) + (own_share().rank << 40))  # dropout, drop path
        chosen = rows(self.data, params, epoch)
        sizes = batch_sizes(len(chosen), params.batch_size, world_size())
        sums = torch.zeros(2, device=self.device)  # task loss, penalty
        rate, spent = params.learning_rate, 0
        choice = random.Random(seed(params, epoch, 3))
        self.model.train()
        with self.penalty(epoch) as penalty:
            bar = progress(
                training_batches(self.data, params, epoch, chosen, self.device),
                f"epoch {epoch + 1}/{params.epochs}",
                total=len(sizes),
                unit="batch",
            )
            for step, (size, (batch, labels)) in enumerate(zip(sizes, bar, strict=True)):
                self.elapsed = (epoch * len(sizes) + step) / (params.epochs * len(sizes))
                self.take_out_what_is_due()
                rate = learning_rate(self.elapsed, params)
                # The mean of the processes' losses is then the mean over all of the images.
                weight = world_size() * len(batch) / size
                with self.removal.sampled(choice) as absent:
                    sums += self.step(batch, labels, rate, penalty, weight)
                spent += size * self.spending.per_image(self.removal.gone, absent)
        average_batch_norm(self.model)
        means = sum_over_processes(sums) / (world_size() * len(sizes))
        task_loss, mean_penalty = means.tolist()
        loss = task_loss + params.penalty.weight * mean_penalty
        return {
            "learning_rate": rate,
            "loss": loss,
            "task_loss": task_loss,
            "penalty": mean_penalty,
            "images_seen": len(chosen),
            "macs_spent": spent,
        }

    def take_out_what_is_due(self) -> None:
        gone = len(self.removal.gone)
        self.learn_too(self.removal.advance(self.elapsed))
        if len(self.removal.gone) > gone:
            self.parallel.wrap(varying=self.removal.samples)

    def learn_too(self, maps: Iterable[ChannelMap]) -> None:
        """Let the optimiser know of maps that have come into the network."""
        for stand_in in maps:
            self.optimizer.add_param_group({"params": list(stand_in.parameters())})

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        rate: float,
        penalty: Callable[[], Tensor],
        weight: float,
    ) -> Tensor:
        """Take one optimiser step; return (weighted task loss, penalty), on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            images = images.to(memory_format=torch.channels_last)
            logits = self.parallel.forward(images)
        task, extra = weight * self.task(images, logits, labels), penalty()
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.scaler.scale(task + self.params.penalty.weight * extra)
        loss.backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack([task.detach(), extra.detach()])

    @contextmanager
    def penalty(self, epoch: int) -> Iterator[Callable[[], Tensor]]:
        """Yield R as a function; where λ = 0 nothing is hooked and it is the constant 0."""
        penalty = self.params.penalty
        if penalty.weight == 0:
            zero = torch.zeros((), device=self.device)
            yield lambda: zero
            return
        generator = torch.Generator(self.device).manual_seed(seed(self.params, epoch, 1))
        with block_penalty(self.model, self.blocks, self.estimator, generator) as value:
            yield value

    def save(self, checkpoint: Path) -> None:
        """Write the state of the training; only the first process has it whole, and writes."""
        state = self.parallel.state(self.optimizer) | {
            "scaler": self.scaler.state_dict(),
            "estimator": self.estimator.state_dict(),
            "removal": self.removal.state_dict(),
            "history": self.history,
        }
        if is_first():
            checkpoints.write(checkpoint, state)

    def resume(self, checkpoint: Path) -> None:
        state = self.parallel.hand_out(checkpoints.read(checkpoint) if is_first() else None)
        with checkpoints.damaged(checkpoint):
            self.removal.load_state_dict(state["removal"], state["model"])
            self.learn_too(self.removal.maps.values())
            self.parallel.load(self.optimizer, state)
            self.scaler.load_state_dict(state["scaler"])
            self.estimator.load_state_dict(state["estimator"])
            self.history = state["history"]
        self.parallel.scatter(self.optimizer, state)
