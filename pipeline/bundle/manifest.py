"""manifest.json of a bundle: every file with its hash, and all that is known of what is in it."""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from models.hashing import file_sha256
from models.zoo import ModelSpec
from pipeline.bundle.provenance import source_state
from pipeline.bundle.selection import PLANS, Selection, ShippedEngine
from pipeline.bundle.tensors import TensorFacts
from pipeline.core.params import Batch
from pipeline.engines.records import ParityCheck
from pipeline.engines.verify import engine_tolerance

FORMAT = 1  # that device/edge/files.py reads
LICENCES = {"fashion_mnist": "MIT"}  # of images, where their publisher states one
ABSOLUTE = re.compile(r"""(?<![\w.:/~-])/(?:[^\s"'()/\\]+/)+""")  # the folders of a path
RUNS_IN_A_BUNDLE = ("onnxruntime", *PLANS)


@dataclass(frozen=True)
class Facts:
    """What the manifest says beside the selection."""

    network: ModelSpec
    images: str  # where they are from, as `prepare` names its source
    pixels: Mapping[str, Any]  # how `prepare` brought them to one form: fit, transparent, bits
    batch: Batch  # which ones engines take
    target: Mapping[str, Any]  # what `probe` found of this machine


def describe(
    selection: Selection,
    facts: Facts,
    tensors: tuple[TensorFacts, TensorFacts],
) -> dict[str, Any]:
    """Return what the manifest says of the network and how it was made.

    Args:
        selection: what is shipped.
        facts: what else is known.
        tensors: the network's input and output.

    Raises:
        ArtifactError: the metrics of an engine lack the GPUs that it is for.
    """
    given, wanted = tensors
    return {
        "format": FORMAT,
        "name": selection.name,
        "variant": selection.variant,
        "level": selection.level,
        "removed": selection.removed,
        "precision": selection.precision,
        "model": {"name": facts.network.name, "options": facts.network.options},
        "input": _tensor(given) | {"batch": facts.batch.model_dump()},
        "output": _tensor(wanted),
        "graphs": [
            {"file": g.name, "backend": g.record.backend, "golden": g.golden, **_accuracy(g.check)}
            for g in selection.graphs
        ],
        "engines": [_engine(engine) for engine in selection.engines],
        "skipped": selection.skipped,
        "parity": [asdict(check) for check in selection.checks],
        "tolerances": {
            backend: asdict(engine_tolerance(selection.precision, backend))
            for backend in RUNS_IN_A_BUNDLE
        },
        "versions": _versions(facts.target),
        "licences": _licences(facts),
        "source": source_state(),
    }


def _engine(engine: ShippedEngine) -> dict[str, Any]:
    record = engine.record
    if record.compute_capabilities is None:
        raise ArtifactError(
            f"the metrics of build do not name the GPUs of {record.file}; run `dvc repro`"
        )
    return {
        "file": engine.name,
        "backend": record.backend,
        "version": record.version,
        "compute_capabilities": record.compute_capabilities,  # 8.0+: that one and all later ones
        "status": engine.check.status,
        **_accuracy(engine.check),
    }


def hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return sha256 and size of every file in a folder, by relative path, sorted."""
    paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {
        name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for name, path in sorted(paths.items())
    }


def without_folders(value: Any) -> Any:
    """Return a JSON value whose texts have no absolute path: of each, only its last name is left.

    Messages of other libraries name the folders, and so the people, of the machine that built it.
    """
    return json.loads(ABSOLUTE.sub("", json.dumps(value)))


def _tensor(tensor: TensorFacts) -> dict[str, Any]:
    return {"name": tensor.name, "type": tensor.type, "shape": ["batch", *tensor.shape]}


def _accuracy(check: ParityCheck) -> dict[str, float | None]:
    """Return the accuracy of exactly these bytes; None where they could not be run."""
    return {
        "val_accuracy_pct": check.val_accuracy_pct,
        "test_accuracy_pct": check.test_accuracy_pct,
    }


def _versions(target: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions that built and proved the bundle."""
    backends = target["backends"].items()
    return {
        "python": platform.python_version(),
        "torch": target["torch"],
        **{name: backend["version"] for name, backend in backends if "version" in backend},
    }


def _licences(facts: Facts) -> dict[str, Any]:
    """Return what is known of the rights to what is in the bundle; None is unknown, not free."""
    start = facts.network.initial_weights
    return {
        "scripts": "Apache-2.0",
        "images": {"source": facts.images, "licence": LICENCES.get(facts.images)},
        "initial_weights": {
            "source": Path(start).name if Path(start).is_absolute() else start,
            "licence": "none needed" if start == "random" else None,
        },
    }
