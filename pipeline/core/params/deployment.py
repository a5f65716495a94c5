"""Sections of params.yaml: graphs, engines, how they are proven, timed and shipped."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.core.params.section import Section

Backend = Literal["onnxruntime", "tensorrt_rtx", "tensorrt", "openvino"]


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

    backends: list[Backend]
    compute_capabilities: list[str] = Field(min_length=1)
    batch: Batch
    hardware_compatibility: Literal["none", "same_compute_capability", "ampere_plus"] = "none"
    version_compatible: bool = False
    cache_gb: float = Field(default=10.0, ge=0)


class Verify(Section):
    """On how much the checks of the parity chain are compared."""

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
    full_pass: int = Field(default=60, ge=1)
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


class Choose(Section):
    """What an engine must keep to be recommended."""

    max_accuracy_drop_pct: float | None = Field(default=1.0, ge=0)
    latency_budget_ms: float | None = Field(default=None, gt=0)
    backend: Backend | None = None
