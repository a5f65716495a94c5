"""Classify images: python run.py photo.jpg [more.png ...] [--backend auto] [--top 3] [--json].

Needs NumPy, Pillow and one of ONNX Runtime, TensorRT or TensorRT-RTX.
"""

import sys

if not getattr(sys.flags, "safe_path", sys.flags.isolated):
    del sys.path[0]  # this folder: no file in it may take the place of a library
import argparse
import json
import runpy
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
try:
    import numpy as np

    runpy.run_path(str(HERE / "edge" / "own.py"))  # which files are imported as `edge`
    from edge.backends import BACKENDS, open_first
    from edge.checks import BundleError, shown
    from edge.files import Bundle, guarded, open_bundle
    from edge.images import load_image, read_labels, read_rules
    from edge.runtime import Logits, Run
except ModuleNotFoundError as e:
    sys.exit(f"error: {e.name} is not installed; pip install -r requirements.txt")
except (ImportError, OSError, SyntaxError, ValueError) as e:
    sys.exit(f"error: cannot start ({e!r}); unpack the bundle again, or install its requirements")


def main() -> None:
    """Print the likeliest classes of every image; exit with 1 and one line where that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--backend", choices=["auto", *BACKENDS], default="auto")
    parser.add_argument("--top", type=int, default=3, help="how many classes (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per image and line")
    options = parser.parse_args()
    bundle = open_bundle(HERE)
    backend, run = open_first(bundle, options.backend)
    names = read_labels(bundle)
    for image in options.images:
        classes = classify(bundle, run, image, names)[: max(1, options.top)]
        result = {"image": str(image), "backend": backend, "classes": classes}
        print(json.dumps(result) if options.json else shown(_line(result)), flush=True)


def classify(bundle: Bundle, run: Run, image: Path, names: list[str]) -> list[dict[str, Any]]:
    """Return every class with its probability, the likeliest first."""
    (logits,) = run(load_image(image, read_rules(bundle)))
    if len(logits) != len(names):
        raise BundleError(f"labels.txt has {len(names)} classes, the network {len(logits)}")
    shares = _softmax(logits)
    return [
        {"class": names[index], "probability": float(shares[index])}
        for index in np.argsort(-shares, kind="stable")
    ]


def _softmax(logits: Logits) -> Any:
    if not np.isfinite(logits).all():
        raise BundleError("the network gave values that are not finite; run verify.py")
    exponentials = np.exp(logits.astype(np.float64) - float(logits.max()))
    return exponentials / exponentials.sum()


def _line(result: dict[str, Any]) -> str:
    shares = ", ".join(f"{c['class']} {c['probability']:.2%}" for c in result["classes"])
    return f"{result['image']}: {shares} ({result['backend']})"


if __name__ == "__main__":
    guarded(main)
