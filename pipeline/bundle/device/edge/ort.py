"""The ONNX graph on the CPU, by ONNX Runtime."""

import os
from typing import Any

from edge.checks import BundleError
from edge.files import Bundle, checked
from edge.runtime import Images, Logits, NotHereError, Run, require_logits

CPU = "CPUExecutionProvider"
ONLY_ERRORS = 3


def open_graph(bundle: Bundle) -> Run:
    """Open the graph meant for ONNX Runtime, in full precision of its types.

    Raises:
        NotHereError: the package is not installed, or lacks an operator in the graph's types.
        BundleError: the graph was altered, or ONNX Runtime cannot open or run it.
    """
    path = checked(bundle, graph_for(bundle, "onnxruntime")["file"])
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # a device reports to nobody unasked
    try:
        import onnxruntime
    except (ImportError, OSError) as e:
        raise NotHereError(f"onnxruntime is not installed ({e}); pip install onnxruntime") from e
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ONLY_ERRORS
    version = f"onnxruntime {onnxruntime.__version__}"
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[CPU])
    except _not_implemented() as e:
        raise NotHereError(f"{version} lacks an operator in this precision: {e}") from e
    except _errors() as e:
        raise BundleError(f"{version} cannot open {path.name}: {e}") from e
    names = [given.name for given in session.get_inputs()]
    if len(names) != 1 or len(session.get_outputs()) != 1:
        raise BundleError(f"{path.name} has not one input and one output; unpack the bundle again")

    def run(images: Images) -> Logits:
        try:
            (values,) = session.run(None, {names[0]: images})
        except _errors() as e:
            raise BundleError(f"{version} cannot run {path.name}: {e}") from e
        return require_logits(values, images)

    return run


def graph_for(bundle: Bundle, backend: str) -> dict[str, Any]:
    """Return what the manifest says of a backend's graph: its own if it has one, else the common.

    Every bundle has a common graph.
    """
    graphs = {graph["backend"]: graph for graph in bundle.manifest["graphs"]}
    chosen: dict[str, Any] = graphs.get(backend, graphs[None])
    return chosen


def _not_implemented() -> type[Exception]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    error: type[Exception] = state.NotImplemented
    return error


def _errors() -> tuple[type[Exception], ...]:
    """Return all that ONNX Runtime raises: its own exceptions have no base in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (m for m in vars(state).values() if isinstance(m, type) and issubclass(m, Exception))
    return (RuntimeError, *own)
