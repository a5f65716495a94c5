"""Train a network on cross-entropy + λ·R (LaCoOT, arXiv 2406.08933, section 4), resumably.

Under some strategies (`pipeline.strategies`) blocks leave the network meanwhile.

After every epoch the whole state goes to a checkpoint. Each epoch draws its randomness from
(seed, epoch) alone, so a run that was killed and continued ends with the same weights as one
that was not (bit for bit on the CPU with one thread).
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from models.cost import count_macs
from models.errors import ArtifactError, ShoalError
from models.memory import enough_memory
from models.replacements import ChannelMap
from models.saving import load_state, save_state
from models.units import Unit
from pipeline.activations import measure_blocks
from pipeline.artifacts import replace_file
from pipeline.augment import augmentation, mixing
from pipeline.criteria import Evidence, gather
from pipeline.data import Dataset, batch_count, batches, drawn, subset
from pipeline.devices import pick_precision
from pipeline.distillation import TaskLoss, from_labels, from_teacher
from pipeline.divergence import require_finite
from pipeline.estimators import ESTIMATORS, Estimator
from pipeline.evaluate import accuracy_pct
from pipeline.optimizers import OPTIMIZERS, learning_rate
from pipeline.params import Score, Train
from pipeline.progress import progress
from pipeline.regularizer import block_penalty
from pipeline.removal import Removal
from pipeline.replacement import StandIns, fit
from pipeline.spending import Spending

EpochLog = dict[str, Any]

MONITORED_IMAGES = 1024  # on which the blocks are measured
EVALUATION_BATCH = 256
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
        model: a freshly created network.
        data: prepared images; train is learnt from, validation is only looked at.
        params: the `train` section, the penalty included.
        blocks: removable units; the penalty is the mean over them.
        device: where to train.
        checkpoint: file of the resumable state; continued from where it exists.
        log: called with each entry, those of a resumed run's past included: learning rate,
            losses, validation accuracy, distance per block, images/s, seconds, the blocks taken
            out so far, and the MACs of all forward passes over training images.
        teacher: a trained network whose logits are learnt from too, as `distill` says.

    Raises:
        DivergedError: the loss or the weights are not finite; the epoch before is kept.
        OutOfMemoryError: a batch does not fit into memory.
        ShoalError: a penalty is asked for and no block is removable.
        BlockError: the strategy is to remove blocks that there are not.
    """
    if params.penalty.weight > 0 and not blocks:
        raise ShoalError("the penalty needs a removable block and this network has none")
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        model=model,
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
    if checkpoint.exists():
        run.resume(checkpoint)
        for entry in run.history:
            log(entry)
    for epoch in range(len(run.history), params.epochs):
        with enough_memory(f"lower train.batch_size (now {params.batch_size})"):
            entry = run.train_and_validate(epoch, checkpoint)
        run.history.append(entry)
        run.save(checkpoint)
        log(entry)
    axes = {name: stand_in.axis for name, stand_in in run.removal.maps.items()}
    return Trained(run.history, run.removal.gone, axes)


@dataclass
class _Run:
    """A training under way: what changes from epoch to epoch and what it works on."""

    model: nn.Module
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

    def train_and_validate(self, epoch: int, checkpoint: Path) -> EpochLog:
        started = time.perf_counter()
        with self.removal.faded(lambda: self.elapsed):
            entry: EpochLog = {"epoch": epoch + 1} | self.train_epoch(epoch)
            trained = time.perf_counter()
            self.require_finite(entry, checkpoint)
            entry |= self.validate()
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
        torch.manual_seed(self.seed(epoch, 0))  # dropout, drop path
        rows = self.rows(epoch)
        steps = batch_count(len(rows), params.batch_size)
        sums = torch.zeros(2, device=self.device)  # task loss, penalty
        rate, spent = params.learning_rate, 0
        choice = random.Random(self.seed(epoch, 3))
        self.model.train()
        with self.penalty(epoch) as penalty:
            bar = progress(
                self.training_batches(rows, epoch),
                f"epoch {epoch + 1}/{params.epochs}",
                total=steps,
                unit="batch",
            )
            for step, (batch, labels) in enumerate(bar):
                self.elapsed = (epoch * steps + step) / (params.epochs * steps)
                self.learn_too(self.removal.advance(self.elapsed))
                rate = learning_rate(self.elapsed, params)
                with self.removal.sampled(choice) as absent:
                    sums += self.step(batch, labels, rate, penalty)
                spent += len(batch) * self.spending.per_image(self.removal.gone, absent)
        task_loss, mean_penalty = (sums / steps).tolist()
        loss = task_loss + params.penalty.weight * mean_penalty
        return {
            "learning_rate": rate,
            "loss": loss,
            "task_loss": task_loss,
            "penalty": mean_penalty,
            "images_seen": len(rows),
            "macs_spent": spent,
        }

    def learn_too(self, maps: Iterable[ChannelMap]) -> None:
        """Let the optimiser know of maps that have come into the network."""
        for stand_in in maps:
            self.optimizer.add_param_group({"params": list(stand_in.parameters())})

    def step(
        self, images: Tensor, labels: Tensor, rate: float, penalty: Callable[[], Tensor]
    ) -> Tensor:
        """Take one optimiser step; return (task loss, penalty), on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            images = images.to(memory_format=torch.channels_last)
            logits = self.model(images)
        task, extra = self.task(images, logits, labels), penalty()
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
        generator = torch.Generator(self.device).manual_seed(self.seed(epoch, 1))
        with block_penalty(self.model, self.blocks, self.estimator, generator) as value:
            yield value

    def rows(self, epoch: int) -> Int64[Tensor, " k"]:
        """Return which images an epoch learns from: all, or as many as it may see."""
        every, wanted = self.data.train, self.params.images_per_epoch
        if wanted is None:
            return torch.arange(len(every))
        return drawn(every, wanted, self.seed(epoch, 4))

    def training_batches(
        self, rows: Int64[Tensor, " k"], epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented images with their labels, which Mixup and CutMix make shares."""
        generator = torch.Generator().manual_seed(self.seed(epoch, 2))
        loader = batches(
            self.data.train,
            self.params.batch_size,
            mean=self.data.mean,
            std=self.data.std,
            device=self.device,
            generator=generator,
            augment=augmentation(self.params),
            rows=rows,
        )
        mix = mixing(self.params, len(self.data.classes))
        if mix is None:
            return loader
        return (mix(images, labels, generator) for images, labels in loader)

    def validate(self) -> EpochLog:
        """Return the validation accuracy, and each block's distance on fixed validation images."""
        self.model.eval()
        options: Any = {"mean": self.data.mean, "std": self.data.std, "device": self.device}
        accuracy = accuracy_pct(
            self.model, batches(self.data.validation, EVALUATION_BATCH, **options)
        )
        monitored = subset(self.data.validation, MONITORED_IMAGES, seed=0)
        there = [unit for unit in self.blocks if unit.name not in self.removal.gone]
        statistics = measure_blocks(
            self.model,
            there,
            (images for images, _ in batches(monitored, EVALUATION_BATCH, **options)),
            n_projections=self.params.penalty.projections,
            seed=0,
        )
        distances = {name: measured.msw for name, measured in statistics.items()}
        return {"val_accuracy_pct": accuracy, "distances": distances}

    def seed(self, epoch: int, purpose: int) -> int:
        """Return a seed of its own for each purpose in each epoch."""
        return (self.params.seed * 1_000_003 + epoch) * 10 + purpose

    def save(self, checkpoint: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "estimator": self.estimator.state_dict(),
            "removal": self.removal.state_dict(),
            "history": self.history,
        }
        with replace_file(checkpoint) as temporary:
            save_state(state, temporary)

    def resume(self, checkpoint: Path) -> None:
        state = load_state(checkpoint, self.device)
        try:
            self.removal.load_state_dict(state["removal"], state["model"])
            self.learn_too(self.removal.maps.values())
            self.model.load_state_dict(state["model"], strict=True)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.estimator.load_state_dict(state["estimator"])
        except (RuntimeError, ValueError, KeyError) as e:
            raise ArtifactError(f"checkpoint {checkpoint} is damaged ({e}); delete it") from e
        self.history = state["history"]
