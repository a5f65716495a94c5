"""params.yaml as typed, validated values: the one place where its keys are defined.

Every stage loads the whole file, so a mistake anywhere stops the first stage, not the last.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.errors import ParamsError, near_matches
from pipeline.params_errors import explain

PARAMS = Path("params.yaml")


Published = Literal["cifar10", "tiny_imagenet", "pacs", "vlcs", "flowers102", "dtd", "aircraft"]


class Section(BaseModel):
    """A group of keys: unknown ones are refused and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Prepare(Section):
    """Where the images come from and the form they are stored in."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    source: Literal["fashion_mnist", "image_folder", Published]
    path: str | None = None
    image_size: int = Field(ge=8, le=4096)
    fit: Literal["pad", "crop"] = "pad"
    channels: Literal[1, 3] | None = None
    on_corrupt: Literal["fail", "skip"] = "fail"
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _has_a_path(self) -> "Prepare":
        if self.path is None and self.source == "image_folder":
            raise ValueError("source 'image_folder' needs `path`, the folder with train/<class>/*")
        if self.path is None and self.source != "fashion_mnist":
            raise ValueError(
                f"source {self.source!r} needs `path`, the folder with the data set as published"
            )
        return self


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


class Strategy(Section):
    """Whether and when blocks go while the network trains (see `pipeline.strategies`)."""

    name: Literal["penalty", "progressive", "anneal", "remove_first", "shallow"] = "penalty"
    remove: (
        Literal["all"] | Annotated[int, Field(ge=1)] | Annotated[list[str], Field(min_length=1)]
    ) = "all"
    order: Literal["block_influence", "msw", "deepest_first", "random"] = "block_influence"
    until: float | None = Field(default=None, ge=0, lt=1)

    @property
    def gone_at(self) -> float:
        """Return the share of the training after which all blocks that are to go are gone."""
        if self.until is not None:
            return self.until
        return 0.4 if self.name in {"progressive", "anneal"} else 0.0


class Train(Section):
    """How a variant is trained."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
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


class Variant(Section):
    """A network and its training: the defaults with one variant's overrides merged in."""

    model: Model
    train: Train
    method: Method = Field(default_factory=Method)

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


class Score(Section):
    """How blocks are scored."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    samples: int = Field(ge=2)
    projections: int = Field(ge=1)


class Plan(Section):
    """Which blocks go, in which order, and how many."""

    criterion: Literal[
        "auto",
        "msw",
        "sliced",
        "block_influence",
        "random",
        "leave_one_out",
        "msw_validation",
        "deepest_first",
        "zscore_percentile",
    ]
    max_accuracy_drop_pct: float = Field(ge=0)
    bn_samples: int = Field(ge=2)
    replacement: Literal["identity", "bias", "affine", "linear", "auto"] = "identity"
    replacement_samples: int = Field(default=512, ge=1)
    replacement_slack_pct: float = Field(default=0.1, ge=0)


class Export(Section):
    """How far the ONNX file may be from the PyTorch network."""

    tolerance: float = Field(gt=0)


class Collapse(Section):
    """How collapsed graphs are compared with the bypassed PyTorch network."""

    samples: int = Field(ge=1)
    tolerance: float = Field(gt=0)


class Precision(Section):
    """Which precisions there are graphs of, and what they are calibrated on."""

    precisions: list[Literal["fp32", "fp16", "bf16", "int8"]] = Field(
        default=["fp32", "fp16", "bf16", "int8"], min_length=1
    )
    samples: int = Field(default=512, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @field_validator("precisions")
    @classmethod
    def _each_once(cls, precisions: list[str]) -> list[str]:
        if len(set(precisions)) < len(precisions):
            raise ValueError(f"names a precision twice: {', '.join(precisions)}")
        return precisions


class Batch(Section):
    """The dynamic batch profile of an engine."""

    min: int = Field(ge=1)
    opt: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "Batch":
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"needs min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        return self


class Build(Section):
    """Which engines are built."""

    backends: list[Literal["onnxruntime", "tensorrt_rtx", "tensorrt", "openvino"]]
    compute_capabilities: list[str] = Field(min_length=1)
    batch: Batch
    hardware_compatibility: Literal["none", "same_compute_capability", "ampere_plus"] = "none"
    version_compatible: bool = False
    cache_gb: float = Field(default=10.0, ge=0)


class Verify(Section):
    """On how much the rungs of the parity ladder are compared."""

    samples: int = Field(default=512, ge=1)


class WarmUp(Section):
    """When an engine counts as warm: once windows of calls have medians that agree."""

    window: int = Field(default=5, ge=1)
    within_pct: float = Field(default=5.0, gt=0)
    max_calls: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _windows_to_compare(self) -> "WarmUp":
        if self.max_calls < 3 * self.window:
            raise ValueError(
                f"max_calls = {self.max_calls} is less than three windows of {self.window} calls, "
                "which are compared"
            )
        return self


class Benchmark(Section):
    """How engines are timed."""

    batch_sizes: list[int] = Field(min_length=1)
    warmup: WarmUp = Field(default_factory=WarmUp)
    rounds: int = Field(ge=2)
    repeats: int = Field(ge=1)
    threads: int | None = Field(default=None, ge=1)
    cores: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)

    @field_validator("batch_sizes")
    @classmethod
    def _positive(cls, sizes: list[int]) -> list[int]:
        if min(sizes) < 1:
            raise ValueError(f"batch sizes start at 1, got {min(sizes)}")
        return sorted(set(sizes))


class Bundle(Section):
    """What is shipped of a variant's chosen level."""

    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    samples: int = Field(default=4, ge=1, le=64)


class Params(Section):
    """The whole of params.yaml."""

    name: str = Field(pattern=r"^[\w][\w .-]*$")
    prepare: Prepare
    model: Model
    train: Train
    method: Method = Field(default_factory=Method)
    variants: dict[str, Variant] = Field(min_length=1)
    score: Score
    plan: Plan
    export: Export
    collapse: Collapse
    precision: Precision = Field(default_factory=Precision)
    build: Build
    verify: Verify = Field(default_factory=Verify)
    benchmark: Benchmark
    bundle: Bundle = Field(default_factory=Bundle)

    @model_validator(mode="after")
    def _batches_fit_the_profile(self) -> "Params":
        sizes, batch = self.benchmark.batch_sizes, self.build.batch
        if sizes[0] < batch.min or sizes[-1] > batch.max:
            raise ValueError(
                f"benchmark.batch_sizes = {sizes} is not within build.batch, {batch.min} to "
                f"{batch.max}; change one of them"
            )
        return self

    def variant(self, name: str) -> Variant:
        """Return the settings of a variant; `ParamsError` where there is none of that name."""
        if name not in self.variants:
            raise ParamsError(
                f"no variant {name!r} in {PARAMS}{near_matches(name, self.variants)}; "
                f"there are {', '.join(self.variants)}"
            )
        return self.variants[name]


def load_params(path: Path = PARAMS) -> Params:
    """Read and validate params.yaml.

    Raises:
        ParamsError: names the key, its value, what is allowed, and near matches of unknown keys.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ParamsError(f"{path} is missing; run from the folder that holds it") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ParamsError(f"{path} is not valid YAML: {e}") from e
    return validate(raw, path)


def validate(raw: Any, path: Path) -> Params:
    """Return the contents of a params.yaml as values; `path` is named in messages.

    Raises:
        ParamsError: as `load_params`.
    """
    try:
        return Params.model_validate(_with_merged_variants(raw, path))
    except ValidationError as e:
        raise ParamsError(explain(e, Params, path)) from e


def _with_merged_variants(raw: Any, path: Path) -> Any:
    """Return `raw` with each variant completed by the default sections that it may override."""
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} must hold keys and values, got {type(raw).__name__}")
    variants = raw.get("variants")
    if not isinstance(variants, dict):
        return raw
    defaults = {key: raw[key] for key in Variant.model_fields if key in raw}
    for name in variants:
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
            raise ParamsError(
                f"{path}: variant {name!r}: use letters, digits, '-' and '_', "
                "and start with a letter"
            )
    return raw | {"variants": {name: _merge(defaults, own) for name, own in variants.items()}}


def _merge(default: Any, own: Any) -> Any:
    """Lay `own` over `default`, key by key. `options` and lists are replaced whole."""
    if own is None or not isinstance(default, dict) or not isinstance(own, dict):
        return default if own is None else own
    return default | {
        key: value if key == "options" else _merge(default.get(key), value)
        for key, value in own.items()
    }
