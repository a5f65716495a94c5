"""The backends by name, in the order in which run.py tries them."""

from collections.abc import Callable
from functools import partial

from edge.checks import BundleError
from edge.files import Bundle
from edge.ort import open_graph
from edge.runtime import NotHereError, Run
from edge.trt import open_plan

BACKENDS: dict[str, Callable[[Bundle], Run]] = {
    "tensorrt": partial(open_plan, backend="tensorrt"),
    "tensorrt_rtx": partial(open_plan, backend="tensorrt_rtx"),
    "onnxruntime": open_graph,
}


def open_first(bundle: Bundle, wanted: str) -> tuple[str, Run]:
    """Return the backend `wanted`, or for "auto" the first that can run here, with its name.

    Raises:
        BundleError: none of them can, with the reason of each.
    """
    reasons = {}
    for name in BACKENDS if wanted == "auto" else [wanted]:
        try:
            return name, BACKENDS[name](bundle)
        except NotHereError as e:
            reasons[name] = str(e)
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise BundleError(f"nothing here can run this bundle: {listed}")
