"""Engines of tiny networks with the metrics of the stages that made and proved them.

For ONNX Runtime any ONNX file is an engine.
"""

from pathlib import Path
from typing import Any

from tiny_onnx import write_network

from models.hashing import file_sha256

REMOVED: list[list[str]] = [[], ["layer1.0"], ["layer1.0", "layer2.1"]]
DEPTHS = (9, 5, 1)
PRECISIONS = ("fp32", "int8")


def write_engines(folder: Path, size: int = 12, depths: tuple[int, ...] = DEPTHS) -> dict[str, Any]:
    """Write ``<precision>/onnxruntime/level_<n>.onnx`` and return the build metrics."""
    levels = []
    for level, depth in enumerate(depths):
        engines = {}
        for seed, precision in enumerate(PRECISIONS):
            file = f"{precision}/onnxruntime/level_{level}.onnx"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_network(folder / file, depth, width=32, seed=seed, size=size)
            built = {"file": file, "bytes": (folder / file).stat().st_size, "seconds": 0.1}
            engines[precision] = {"onnxruntime": built}
        (folder / "fp32" / "tensorrt_rtx").mkdir(exist_ok=True)
        plan = f"fp32/tensorrt_rtx/level_{level}.engine"
        (folder / plan).write_bytes(b"a plan")
        engines["fp32"]["tensorrt_rtx"] = {"file": plan, "bytes": 6, "seconds": 0.1}
        levels.append(
            {
                "level": level,
                "removed": REMOVED[level],
                "engines": engines,
                "failed": {"bf16": {"onnxruntime": "no bf16 convolution"}},
            }
        )
    return {"not_available": {"tensorrt": "tensorrt is not installed"}, "levels": levels}


def verified(built: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return verify metrics in which all that ONNX Runtime runs has passed."""
    return {
        "levels": [
            {
                "level": level["level"],
                "removed": level["removed"],
                "rungs": [
                    engine_rung(precision, backend, folder / engine["file"], level["level"])
                    for precision, by_backend in level["engines"].items()
                    for backend, engine in by_backend.items()
                ],
            }
            for level in built["levels"]
        ]
    }


def engine_rung(precision: str, backend: str, engine: Path, level: int) -> dict[str, Any]:
    runs = backend == "onnxruntime"
    test_accuracy_pct = 91.0 - level - (0.5 if precision == "int8" else 0)
    return {
        "rung": "engine",
        "precision": precision,
        "backend": backend,
        "status": "passed" if runs else "not run",
        "reason": None if runs else "no CUDA device",
        "val_accuracy_pct": test_accuracy_pct + 0.25 if runs else None,
        "test_accuracy_pct": test_accuracy_pct if runs else None,
        "sha256": file_sha256(engine) if runs else None,
    }
