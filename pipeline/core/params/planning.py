"""Sections of params.yaml: how blocks are scored, which are removed, how levels are healed."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.core.params.section import Criterion, Section
from pipeline.core.params.training import Method, Model, Train


class Score(Section):
    """How blocks are scored."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    samples: int = Field(ge=2)
    projections: int = Field(ge=1)
    recovery_images: int = Field(default=2048, ge=0)
    recovery_learning_rate: float = Field(default=0.01, gt=0)


class Plan(Section):
    """Which blocks go, in which order, and how many."""

    criterion: Literal["auto", Criterion]
    search: Literal["one_shot", "greedy", "latency_aware"] = "one_shot"
    max_accuracy_drop_pct: float = Field(ge=0)
    latency_budget_ms: float | None = Field(default=None, gt=0)
    latency_batch: int = Field(default=1, ge=1)
    replacement: Literal["identity", "bias", "affine", "linear", "auto"] = "identity"
    replacement_samples: int = Field(default=512, ge=1)
    replacement_slack_pct: float = Field(default=0.1, ge=0)
    dead_branches: bool = True

    @property
    def measures_latency(self) -> bool:
        """Return whether the plan depends on the machine it is made on."""
        return self.search == "latency_aware"

    @model_validator(mode="after")
    def _a_budget_to_keep(self) -> "Plan":
        if self.measures_latency and self.criterion != "auto":
            raise ValueError(
                "search 'latency_aware' goes by accuracy lost per ms saved, not by criterion "
                f"{self.criterion!r}; set criterion: auto, or search: greedy"
            )
        if self.measures_latency and self.latency_budget_ms is None:
            raise ValueError(
                "search 'latency_aware' needs latency_budget_ms, the time that one batch of "
                "latency_batch images may take"
            )
        return self


class Variant(Section):
    """A network, its training and its plan: the defaults with one variant's overrides merged in."""

    model: Model
    train: Train
    method: Method = Field(default_factory=Method)
    plan: Plan

    @model_validator(mode="after")
    def _starts_where_the_strategy_does(self) -> "Variant":
        strategy = self.train.strategy
        has_weights = self.model.pretrained or self.model.weights is not None
        if strategy.name == "shallow" and (has_weights or strategy.until):
            raise ValueError(
                "strategy 'shallow' trains from scratch without the blocks: leave out until and "
                "initial weights; with them it is called remove_first"
            )
        if strategy.name == "remove_first" and not has_weights and not strategy.until:
            raise ValueError(
                "strategy 'remove_first' removes blocks of a trained network: give it initial "
                "weights (model.pretrained or model.weights) or until above 0"
            )
        return self


class HealDistill(Section):
    """How much a fine-tuned level learns from the whole network beside the labels."""

    weight: float = Field(default=0.0, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)


class Heal(Section):
    """What is done to a level's network after its blocks went, and which result is shipped."""

    ship: Literal["removed", "batch_norm", "healed"] = "removed"
    bn_samples: int = Field(default=2048, ge=2)
    epochs: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=0.01, gt=0)
    distill: HealDistill = Field(default_factory=HealDistill)

    @model_validator(mode="after")
    def _heals_what_it_ships(self) -> "Heal":
        if self.ship == "healed" and not self.epochs:
            raise ValueError(
                "ship 'healed' needs epochs above 0 (they are 0: no level is fine-tuned); set "
                "heal.epochs, or ship removed or batch_norm"
            )
        return self
