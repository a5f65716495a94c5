"""Sections of params.yaml: which network, how it is trained, and how it is made shallow."""

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from pipeline.core.params.section import Criterion, Section

TAKEN = {
    *("name", "model_name", "num_classes", "in_chans", "pretrained", "weights"),
    *("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"),
}


class Normalisation(Section):
    """What images of 0..1 are normalised by, per channel."""

    mean: list[float] = Field(min_length=1)
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)


def _normalised_by(value: Any) -> str | None:
    if value in ("auto", "published", "images"):
        return "(name)"
    return "(values)" if isinstance(value, dict | Normalisation) else None


class Model(Section):
    """Which network, by the name and options that `models.zoo.create` takes."""

    name: str
    pretrained: bool = False
    weights: str | None = None
    normalisation: Annotated[
        Annotated[Literal["auto", "published", "images"], Tag("(name)")]
        | Annotated[Normalisation, Tag("(values)")],
        Discriminator(
            _normalised_by,
            custom_error_type="normalisation",
            custom_error_message=(
                "Input should be 'auto', 'published', 'images', or {mean: [...], std: [...]}"
            ),
        ),
    ] = "auto"
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _not_what_is_set_elsewhere(cls, options: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(options, allow_nan=False)
        except (TypeError, ValueError) as e:
            raise ValueError(f"they stand in a bundle's manifest, as JSON: {e}") from e
        if taken := TAKEN & options.keys():
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


class LevelOfPlan(Section):
    """The blocks that a plan removes up to a level; metrics/plan/<variant>.json is such a plan."""

    plan: str
    level: int = Field(ge=1)


# In parentheses: what `params_errors` does not take for keys.
REMOVED_BY = {int: "(count)", list: "(blocks)", dict: "(plan)", LevelOfPlan: "(plan)"}


def _removed_by(value: Any) -> str | None:
    return "(all)" if value == "all" else REMOVED_BY.get(type(value))


Removed = Annotated[
    Annotated[Literal["all"], Tag("(all)")]
    | Annotated[int, Field(ge=1), Tag("(count)")]
    | Annotated[list[str], Field(min_length=1), Tag("(blocks)")]
    | Annotated[LevelOfPlan, Tag("(plan)")],
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
    """Whether and when blocks go while the network trains (see `pipeline.train.strategies`)."""

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


class Distill(Section):
    """Whose logits a network learns from beside the labels (see `pipeline.train.distillation`)."""

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
    """Which parts of the network are compared and removed (see `models.unit_selection`)."""

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
