"""params.yaml as typed, validated values: the one place where its keys are read.

Every stage loads the whole file, so a mistake anywhere stops the first stage, not the last. Its
sections are in the modules beside this one; import them from `pipeline.core.params`.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from models.errors import ParamsError, near_matches
from pipeline.core.params.data import Prepare
from pipeline.core.params.deployment import (
    Benchmark,
    Build,
    Bundle,
    Choose,
    Collapse,
    Export,
    Precision,
    Verify,
)
from pipeline.core.params.messages import explain, one_line, require_moderate
from pipeline.core.params.planning import Heal, Plan, Score, Variant
from pipeline.core.params.section import Section
from pipeline.core.params.training import (
    Method,
    Model,
    Train,
)

PARAMS = Path("params.yaml")
# Of a variant: it stands in command lines, names of files and of models.
NAME, LONGEST_BYTES = re.compile(r"[^\W\d_][\w-]*"), 100


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
        is_name = isinstance(name, str) and NAME.fullmatch(name)
        if not is_name or len(name.encode()) > LONGEST_BYTES:
            raise ParamsError(
                f"{path}: variant {one_line(repr(name))}: use letters, digits, '-' and '_', "
                f"{LONGEST_BYTES} bytes at most, and start with a letter"
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
