"""Failures of the libraries that rewrite ONNX graphs, as one error that says what was tried."""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from models.errors import ArtifactError

FAILURES = (  # what onnx and ONNX Runtime's converter and quantiser raise
    AssertionError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Raise `ArtifactError` with `what` and the first line of the reason where a library fails."""
    try:
        yield
    except FAILURES as e:
        reason = str(e).strip().partition("\n")[0]
        raise ArtifactError(f"{what}: {type(e).__name__}: {reason}") from e
