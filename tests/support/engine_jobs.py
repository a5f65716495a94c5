"""Engines to build in tests, and what building them needs."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.params import Batch, Build
from pipeline.engines.backends.interface import Job

BATCH = Batch(min=1, opt=4, max=9)
OPTIONS = Build(backends=["onnxruntime"], compute_capabilities=["8.6", "12.0"], batch=BATCH)


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


needs_rtx = needs("tensorrt_rtx")


def options(**values: Any) -> Build:
    """Return `OPTIONS` with other values, which are not validated."""
    return OPTIONS.model_copy(update=values)


def job(source: Path, target: Path, precision: str = "fp32", **values: Any) -> Job:
    return Job(source, target, precision, options(**values))
