"""params.yaml as typed, validated values: the one place where its keys are read.

Every stage loads the whole file, so a mistake anywhere stops the first stage, not the last. Its
sections are in `pipeline.params_network` and `pipeline.params_engines`; import them from here.
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from models.errors import ParamsError, near_matches
from pipeline.params_engines import (
    Batch,
    Benchmark,
    Build,
    Bundle,
    Choose,
    Collapse,
    Export,
    Precision,
    Verify,
    WarmUp,
)
from pipeline.params_errors import explain, one_line, require_moderate
from pipeline.params_network import (
    Distill,
    Heal,
    HealDistill,
    Method,
    Model,
    Penalty,
    Plan,
    PlannedLevel,
    Score,
    Strategy,
    Train,
    Variant,
)
from pipeline.params_section import Section

__all__ = [
    "PARAMS",
    "Batch",
    "Benchmark",
    "Build",
    "Bundle",
    "Choose",
    "Collapse",
    "Distill",
    "Export",
    "Heal",
    "HealDistill",
    "Method",
    "Model",
    "Params",
    "Penalty",
    "Plan",
    "PlannedLevel",
    "Precision",
    "Prepare",
    "Score",
    "Section",
    "Strategy",
    "Train",
    "Variant",
    "Verify",
    "WarmUp",
    "load_params",
    "validate",
]

PARAMS = Path("params.yaml")

Published = Literal["cifar10", "tiny_imagenet", "pacs", "vlcs", "flowers102", "dtd", "aircraft"]


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
    heal: Heal = Field(default_factory=Heal)
    export: Export
    collapse: Collapse
    precision: Precision = Field(default_factory=Precision)
    build: Build
    verify: Verify = Field(default_factory=Verify)
    benchmark: Benchmark
    bundle: Bundle = Field(default_factory=Bundle)
    choose: Choose = Field(default_factory=Choose)

    @model_validator(mode="after")
    def _batches_fit_the_profile(self) -> "Params":
        sizes, batch = self.benchmark.batch_sizes, self.build.batch
        if sizes[0] < batch.min or sizes[-1] > batch.max:
            raise ValueError(
                f"benchmark.batch_sizes = {sizes} is not within build.batch, {batch.min} to "
                f"{batch.max}; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _teachers_are_trained_before(self) -> "Params":
        for name, variant in self.variants.items():
            teacher = variant.train.distill.teacher
            if teacher is None:
                continue
            if teacher not in self.variants or teacher == name:
                others = ", ".join(other for other in self.variants if other != name)
                raise ValueError(
                    f"variant {name!r} is to learn from {teacher!r}, which is no other variant; "
                    f"train.distill.teacher may be {others or 'only another variant'}"
                )
            if self.variants[teacher].train.distill.teacher is not None:
                raise ValueError(
                    f"variant {name!r} is to learn from {teacher!r}, which has a teacher itself; "
                    "a teacher learns from labels alone"
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
    except OSError as e:
        raise ParamsError(f"{path} cannot be read: {e.strerror}") from e
    except RecursionError as e:
        raise ParamsError(f"{path} is nested too deeply") from e
    # ValueError: of bytes that are no text, and of numbers and dates that YAML allows, not Python.
    except (yaml.YAMLError, ValueError) as e:
        raise ParamsError(one_line(f"{path} is not valid YAML: {e}")) from e
    require_moderate(raw, path)
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
                f"{path}: variant {one_line(repr(name))}: use letters, digits, '-' and '_', "
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
