"""Plans that were built on this device: which of them was proven, by content.

``built/<backend>.json`` names the plan that gave the golden logits, and the manifest it did so for.
"""

import json
from pathlib import Path

from edge.checks import BundleError
from edge.files import BUILT, Bundle, no_plain_file, plain, read_json, sha256_of

NEW = ".new"  # a plan that rebuild.sh has just built, at the end of its name


def built_plan(backend: str) -> str:
    """Return the path in the bundle of the plan that was built on this device."""
    return f"{BUILT}/{backend}.plan"


def candidate(bundle: Bundle, backend: str) -> str | None:
    """Return the path in the bundle of the plan to prove: just built, else built earlier."""
    plan = built_plan(backend)
    names = (name for name in (plan + NEW, plan) if (bundle.folder / name).is_file())
    return next(names, None)


def accept(bundle: Bundle, backend: str, status: str) -> None:
    """Give a plan that was just built its name and say so, and record a proof that passed.

    One that failed is deleted where it was just built, else it is not preferred any more.

    Raises:
        BundleError: the folder cannot be written to.
    """
    name = candidate(bundle, backend)
    if name is None:
        return
    plan, record, is_new = plain(bundle, name), _record(bundle, backend), name.endswith(NEW)
    try:
        if status == "failed":
            (plan if is_new else record).unlink(missing_ok=True)
            return
        if is_new:
            plan = plan.replace(bundle.folder / built_plan(backend))
            print(f"{built_plan(backend)} is ready")
        if status == "passed" and not is_proven(bundle, backend):
            record.unlink(missing_ok=True)
            record.write_text(json.dumps(_proof(bundle, plan)) + "\n", encoding="utf-8")
    except OSError as e:
        raise BundleError(f"cannot write to {bundle.folder / BUILT}: {e.strerror}") from e


def is_proven(bundle: Bundle, backend: str) -> bool:
    """Return whether there is a plan of this device whose bytes were proven for this bundle."""
    plan, record = built_plan(backend), _record(bundle, backend)
    if no_plain_file(bundle.folder, plan) or not record.exists():
        return False
    proof = read_json(plain(bundle, f"{BUILT}/{record.name}"), {"plan": str, "manifest": str})
    same: bool = proof == _proof(bundle, bundle.folder / plan)
    return same


def _record(bundle: Bundle, backend: str) -> Path:
    return bundle.folder / BUILT / f"{backend}.json"


def _proof(bundle: Bundle, plan: Path) -> dict[str, str]:
    return {"plan": sha256_of(plan), "manifest": sha256_of(bundle.folder / "manifest.json")}
