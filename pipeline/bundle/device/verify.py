"""Prove the bundle on this machine: python verify.py [--backend tensorrt] [--report checks.json].

Checks every file against the manifest, the preprocessing on the sample images, and the golden
inputs through every backend that can run here; what cannot is listed as not run, with the reason.
A plan that was built on this device is proven in the shipped one's place, and preferred by run.py
from then on. With --backend that one must run.
Exits with 0 only if nothing failed and something ran.
"""

import sys

if not getattr(sys.flags, "safe_path", sys.flags.isolated):
    del sys.path[0]  # this folder: no file in it may take the place of a library
import argparse
import json
import runpy
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
try:
    import numpy as np

    runpy.run_path(str(HERE / "edge" / "own.py"))  # which files are imported as `edge`
    from edge.backends import BACKENDS
    from edge.checks import BundleError, shown
    from edge.files import Bundle, guarded, open_bundle, problems
    from edge.golden import read_golden
    from edge.images import load_image, read_rules
    from edge.ort import graph_for
    from edge.proofs import accept, candidate
    from edge.runtime import Logits, NotHereError
    from edge.signature import require_signature
    from edge.trt import open_plan
except ModuleNotFoundError as e:
    sys.exit(f"error: {e.name} is not installed; pip install -r requirements.txt")
except (ImportError, OSError, SyntaxError, ValueError) as e:
    sys.exit(f"error: cannot start ({e!r}); unpack the bundle again, or install its requirements")


def main() -> None:
    """Print one line per check; exit with 1 and one line where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=list(BACKENDS), help="only this one, and it must run")
    parser.add_argument("--report", type=Path, help="write the results to this JSON file")
    parser.add_argument(
        "--signers", type=Path, help="require a signature of one named in this file"
    )
    parser.add_argument("--shapes", action="store_true", help=argparse.SUPPRESS)  # of rebuild.sh
    options = parser.parse_args()
    if options.signers:
        print(shown(f"signature: passed, {require_signature(HERE, options.signers)}"))
    bundle = open_bundle(HERE)
    if options.shapes:
        _require_files(bundle)
        print(*_shapes(bundle, options.backend))
        return
    _check_files(bundle)
    _check_preprocessing(bundle)
    checks = []
    for name in [options.backend] if options.backend else BACKENDS:
        checks.append(check(bundle, name))
        accept(bundle, name, checks[-1]["status"])
        print(shown(_line(checks[-1])))
    if options.report:
        _write_report(options.report, checks)
    if any(result["status"] == "failed" for result in checks):
        raise BundleError("this bundle must not be used here: see the lines that failed")
    if all(result["status"] == "not run" for result in checks):
        raise BundleError("nothing ran, so nothing is proven; see the reasons above")


def _shapes(bundle: Bundle, backend: str) -> list[str]:
    """Return the graph to build from, and the minimum, optimum and maximum shape: NAME:NxCxHxW."""
    given = bundle.manifest["input"]
    batches = (given["batch"][size] for size in ("min", "opt", "max"))
    shapes = ("x".join(map(str, [batch, *given["shape"][1:]])) for batch in batches)
    return [graph_for(bundle, backend)["file"], *(f"{given['name']}:{shape}" for shape in shapes)]


def _write_report(path: Path, checks: list[dict[str, Any]]) -> None:
    try:
        path.write_text(json.dumps(checks, indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        raise BundleError(f"cannot write {path}: {e.strerror}") from e


def _require_files(bundle: Bundle) -> None:
    if found := problems(bundle):
        raise BundleError("; ".join(found))


def _check_files(bundle: Bundle) -> None:
    _require_files(bundle)
    print(f"files: passed, {len(bundle.manifest['files'])} as in the manifest")


def _check_preprocessing(bundle: Bundle) -> None:
    """Prove that Pillow and NumPy here make the golden inputs of the sample images."""
    rules, golden = read_rules(bundle), read_golden(bundle)
    for sample, expected in zip(bundle.manifest["samples"], golden["images"], strict=True):
        if not np.array_equal(load_image(bundle.folder / sample["file"], rules)[0], expected):
            raise BundleError(f"{sample['file']} is decoded to other values than in golden.npz")
    print(f"preprocessing: passed, {len(golden['images'])} sample images give the golden inputs")


def check(bundle: Bundle, backend: str) -> dict[str, Any]:
    """Return a check of the parity chain: the golden inputs through one backend."""
    golden, graph = read_golden(bundle), graph_for(bundle, backend)
    found: dict[str, Any] = {
        "level": bundle.manifest["level"],
        "check": "engine",
        "reference": f"golden logits of {graph['file']}",
        "precision": bundle.manifest["precision"],
        "backend": backend,
        "status": "passed",
        "reason": None,
        "tolerance": bundle.manifest["tolerances"][backend],
    }
    built = candidate(bundle, backend)
    open_it = partial(open_plan, backend=backend, built=built) if built else BACKENDS[backend]
    try:
        logits = open_it(bundle)(golden["images"])
    except NotHereError as e:
        return {**found, "status": "not run", "reason": str(e)}
    except BundleError as e:
        return {**found, "status": "failed", "reason": str(e)}
    parity = compare(golden[graph["golden"]], logits)
    missed = violations(parity, found["tolerance"])
    failure = {"status": "failed", "reason": "; ".join(missed)} if missed else {}
    return {**found, **failure, **parity}


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
    """Return what is worse than the tolerance, in words; empty where nothing is."""
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
    how = result["reason"] or f"off by {result['max_rel']:.1e} of the largest logit"
    return f"{result['backend']} {result['precision']}: {result['status']}, {how}"


if __name__ == "__main__":
    guarded(main)
