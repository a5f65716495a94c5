"""Blocks are removed from the ONNX graph."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.collapse.rewrite import collapse_onnx as collapse_onnx


def __getattr__(name: str) -> object:
    """Hand on the public name when it is asked for; other modules start without its imports."""
    if name == "collapse_onnx":
        from pipeline.collapse.rewrite import collapse_onnx

        return collapse_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
