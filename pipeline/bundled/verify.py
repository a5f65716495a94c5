"""Prove the bundle on this machine: python verify.py [--backend tensorrt] [--report rungs.json].

Checks every file against the manifest, the preprocessing on the sample images, and the golden
inputs through every backend that can run here; what cannot is listed as not run, with the reason.
With --backend that one must run. Exits with 0 only if nothing failed and something ran.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

try:
    import numpy as np

    from edge.backends import BACKENDS
    from edge.files import Bundle, BundleError, checked, open_bundle, problems
    from edge.images import load_image, read_rules
    from edge.ort import graph_for
    from edge.runtime import Logits, NotHereError
except ModuleNotFoundError as e:
    sys.exit(f"error: {e.name} is not installed; pip install -r requirements.txt")


def main() -> None:
    """Print one line per check; exit with 1 and one line where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=list(BACKENDS), help="only this one, and it must run")
    parser.add_argument("--report", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    try:
        bundle = open_bundle(Path(__file__).resolve().parent)
        _check_files(bundle)
        _check_preprocessing(bundle)
    except BundleError as e:
        sys.exit(f"error: {e}")
    rungs = [rung(bundle, name) for name in ([options.backend] if options.backend else BACKENDS)]
    for result in rungs:
        print(_line(result))
    if options.report:
        _write_report(options.report, rungs)
    if any(result["status"] == "failed" for result in rungs):
        sys.exit("error: this bundle must not be used here: see the lines that failed")
    if all(result["status"] == "not run" for result in rungs):
        sys.exit("error: nothing ran, so nothing is proven; see the reasons above")


def _write_report(path: Path, rungs: list[dict[str, Any]]) -> None:
    try:
        path.write_text(json.dumps(rungs, indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        sys.exit(f"error: cannot write {path}: {e.strerror}")


def _check_files(bundle: Bundle) -> None:
    if found := problems(bundle):
        raise BundleError("; ".join(found))
    print(f"files: passed, {len(bundle.manifest['files'])} as in the manifest")


def _check_preprocessing(bundle: Bundle) -> None:
    """Prove that Pillow and NumPy here make the golden inputs of the sample images."""
    rules, golden = read_rules(bundle), _golden(bundle)
    for sample, expected in zip(bundle.manifest["samples"], golden["images"], strict=True):
        if not np.array_equal(load_image(bundle.folder / sample["file"], rules)[0], expected):
            raise BundleError(f"{sample['file']} is decoded to other values than in golden.npz")
    print(f"preprocessing: passed, {len(golden['images'])} sample images give the golden inputs")


def rung(bundle: Bundle, backend: str) -> dict[str, Any]:
    """Return a rung of the parity ladder: the golden inputs through one backend."""
    found: dict[str, Any] = {
        "rung": "engine",
        "precision": bundle.manifest["precision"],
        "backend": backend,
        "tolerance": bundle.manifest["tolerances"][backend],
    }
    golden = _golden(bundle)
    try:
        logits = BACKENDS[backend](bundle)(golden["images"])
    except NotHereError as e:
        return {**found, "status": "not run", "reason": str(e)}
    except BundleError as e:
        return {**found, "status": "failed", "reason": str(e)}
    parity = compare(golden[graph_for(bundle, backend)["golden"]], logits)
    missed = violations(parity, found["tolerance"])
    status = {"status": "failed", "reason": "; ".join(missed)} if missed else {"status": "passed"}
    return {**found, **status, **parity}


def _golden(bundle: Bundle) -> dict[str, Logits]:
    with np.load(checked(bundle, "golden.npz"), allow_pickle=False) as arrays:
        return dict(arrays)


def compare(reference: Logits, candidate: Logits) -> dict[str, float]:
    """Return how far two sets of logits (n, k) are apart; empty where they cannot be compared."""
    if reference.shape != candidate.shape or not np.isfinite(candidate).all():
        return {}
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    difference, scale = np.abs(a - b).max(), np.abs(a).max()
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(axis=1), norms, out=np.ones(len(a)), where=norms > 0)
    return {
        "max_abs": float(difference),
        "max_rel": float(difference / scale) if scale else float(difference),
        "cosine": float(cosines.min()),
        "top1_agreement": float((a.argmax(axis=1) == b.argmax(axis=1)).mean()),
    }


def violations(parity: dict[str, float], tolerance: dict[str, float]) -> list[str]:
    """Return what is worse than the tolerance, in words; nothing where all is well."""
    if not parity:
        return ["the logits are not finite, or not of the golden ones' shape"]
    found = []
    if parity["max_rel"] > tolerance["max_rel"]:
        found.append(f"max_rel {parity['max_rel']:.1e} > {tolerance['max_rel']:.0e}")
    for name in ("cosine", "top1_agreement"):
        if parity[name] < tolerance[name]:
            found.append(f"{name} {parity[name]:.5f} < {tolerance[name]:g}")
    return found


def _line(result: dict[str, Any]) -> str:
    told = result.get("reason") or f"off by {result['max_rel']:.1e} of the largest logit"
    return f"{result['backend']} {result['precision']}: {result['status']}, {told}"


if __name__ == "__main__":
    main()
