"""From PyTorch to ONNX, with the boundaries of blocks; graphs are read, run and compared."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.export.exporter import export_onnx as export_onnx


def __getattr__(name: str) -> object:
    """Hand on the public name when it is asked for; other modules start without its imports."""
    if name == "export_onnx":
        from pipeline.export.exporter import export_onnx

        return export_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
