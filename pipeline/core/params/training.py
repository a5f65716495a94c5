"""Sections of params.yaml: which network, how it is trained, and how it is made shallow."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from pipeline.params_section import Section

Criterion = Literal[
    "msw",
    "sliced",
    "block_influence",
    "random",
    "leave_one_out",
    "recoverability",
    "msw_validation",
    "deepest_first",
    "zscore_percentile",
]


class Model(Section):
    """Which network, by the name and options that `models.zoo.create` takes."""

    name: str
    pretrained: bool = False
    weights: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _not_what_is_set_elsewhere(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := {"name", "num_classes", "in_chans", "pretrained", "weights"} & options.keys():
            raise ValueError(
                f"{', '.join(sorted(taken))}: given by the data or set beside `options`"
            )
        return options

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> "Model":
        if self.pretrained and self.weights is not None:
            raise ValueError(
                f"pretrained: true and weights = {self.weights!r} name two sources of the initial "
                "weights; keep one of them"
            )
        return self


class Penalty(Section):
    """The regulariser λ·R of LaCoOT (arXiv 2406.08933, section 4)."""

    weight: float = Field(alias="lambda", ge=0)
    estimator: Literal["random", "power", "ascent"] = "random"
    projections: int = Field(default=50, ge=1)


class PlannedLevel(Section):
    """The blocks that a plan removes up to a level; metrics/plan/<variant>.json is such a plan."""

    plan: str
    level: int = Field(ge=1)


# In parentheses: what `params_errors` does not take for keys.
REMOVED_BY = {int: "(count)", list: "(blocks)", dict: "(plan)", PlannedLevel: "(plan)"}


def _removed_by(value: Any) -> str | None:
    return "(all)" if value == "all" else REMOVED_BY.get(type(value))


Removed = Annotated[
    Annotated[Literal["all"], Tag("(all)")]
    | Annotated[int, Field(ge=1), Tag("(count)")]
    | Annotated[list[str], Field(min_length=1), Tag("(blocks)")]
    | Annotated[PlannedLevel, Tag("(plan)")],
    Discriminator(
        _removed_by,
        custom_error_type="removed",
        custom_error_message=(
            "Input should be 'all', a number of blocks, a list of blocks, or "
            "{plan: a file metrics/plan/<variant>.json, level: a number}"
        ),
    ),
]


class Strategy(Section):
    """Whether and when blocks go while the network trains (see `pipeline.strategies`)."""

    name: Literal["penalty", "progressive", "anneal", "remove_first", "shallow", "explore"] = (
        "penalty"
    )
    remove: Removed = "all"
    order: Literal["auto", Criterion] = "auto"
    until: float | None = Field(default=None, ge=0, lt=1)
    replacement: Literal["identity", "bias", "affine", "linear"] = "identity"

    @model_validator(mode="after")
    def _fades_towards_what_stays(self) -> "Strategy":
        if self.name == "anneal" and self.replacement != "identity":
            raise ValueError(
                f"replacement {self.replacement!r}: 'anneal' fades blocks towards the identity, "
                "which then stands in for them; leave replacement out or take another strategy"
            )
        return self

    @property
    def gone_at(self) -> float:
        """Return the share of the training after which all blocks that are to go are gone."""
        if self.until is not None:
            return self.until
        return 0.4 if self.name in {"progressive", "anneal", "explore"} else 0.0

    @property
    def criterion(self) -> Criterion:
        """Return what decides which blocks go first; low goes first."""
        if self.order != "auto":
            return self.order
        return "recoverability" if self.name == "explore" else "block_influence"


class Distill(Section):
    """Whose logits a network learns from beside the labels (see `pipeline.distillation`)."""

    teacher: str | None = None
    weight: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)


class Train(Section):
    """How a variant is trained."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    images_per_epoch: int | None = Field(default=None, ge=2)
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=list)
    flip: bool = False
    vertical_flip: bool = False
    crop_padding: int = Field(default=0, ge=0)
    random_resized_crop: float | None = Field(default=None, gt=0, le=1)
    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    color_jitter: float = Field(default=0.0, ge=0, le=0.5)
    mixup_alpha: float = Field(default=0.0, ge=0)
    cutmix_alpha: float = Field(default=0.0, ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    penalty: Penalty
    strategy: Strategy = Field(default_factory=Strategy)
    distill: Distill = Field(default_factory=Distill)
    processes: int | None = Field(default=1, ge=1)
    parallel: Literal["ddp", "fsdp"] = "ddp"
    sync_batch_norm: bool = False

    @model_validator(mode="after")
    def _cut_up_it_stays_whole(self) -> "Train":
        if self.parallel == "fsdp" and self.strategy.name != "penalty":
            raise ValueError(
                f"parallel 'fsdp' cuts the network up among processes, and strategy "
                f"{self.strategy.name!r} takes blocks out of it; take parallel: ddp, or strategy "
                "penalty, which leaves them in"
            )
        return self


class Method(Section):
    """Which parts of the network are compared and removed (see `pipeline.method`)."""

    mode: Literal["paper", "official"] = "paper"
    unit: Literal["auto", "block", "depthwise"] = "auto"

    @model_validator(mode="after")
    def _official_knows_its_unit(self) -> "Method":
        if self.mode == "official" and self.unit != "auto":
            raise ValueError(
                f"unit {self.unit!r} is for mode 'paper'; mode 'official' takes the unit from the "
                "network's structure, so set unit: auto"
            )
        return self


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
        if strategy.name == "shallow" and (has_weights or strategy.gone_at):
            raise ValueError(
                "strategy 'shallow' trains from scratch without the blocks: leave out until and "
                "initial weights; with them it is called remove_first"
            )
        if strategy.name == "remove_first" and not has_weights and not strategy.gone_at:
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
