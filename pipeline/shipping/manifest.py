"""manifest.json of a bundle: every file with its hash, and all that is known of what is in it."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.params import Build
from pipeline.shipping.provenance import source_state
from pipeline.shipping.selection import Facts, Selection, Shipped
from pipeline.shipping.tensors import TensorFacts

FORMAT = 1  # that bundled/edge/files.py reads
LICENCES = {"fashion_mnist": "MIT"}  # of images, where their publisher states one


def describe(
    selection: Selection,
    facts: Facts,
    files: Mapping[str, Shipped],
    tensors: tuple[TensorFacts, TensorFacts],
    options: Build,
) -> dict[str, Any]:
    """Return what the manifest says of the network and how it was made.

    Args:
        selection: what is shipped.
        facts: the metrics of benchmark, and ``target``, ``prepare`` and ``model``: what `probe`
            found, the manifest of the images and the description of the network.
        files: the bundle's graphs and engines by their names in it.
        tensors: the network's input and output.
        options: of the engines.
    """
    given, wanted = tensors
    graphs, engines = (
        {name: f for name, f in files.items() if f.rung["rung"] == rung}
        for rung in ("precision", "engine")
    )
    return {
        "format": FORMAT,
        "name": selection.name,
        "variant": selection.variant,
        "level": selection.level,
        "removed": selection.removed,
        "precision": selection.precision,
        "model": {key: facts["model"][key] for key in ("name", "options")},
        "input": _tensor(given) | {"batch": options.batch.model_dump()},
        "output": _tensor(wanted),
        "graphs": [
            {"file": name, "backend": f.backend, "golden": f.golden, **_accuracy(f)}
            for name, f in graphs.items()
        ],
        "engines": [{"file": name, **_engine(f)} for name, f in engines.items()],
        "left_out": selection.left_out,
        "parity": selection.rungs,
        "latency": _latency(selection, facts["benchmark"]),
        "versions": _versions(facts["target"]),
        "licences": _licences(facts),
        "source": source_state(),
    }


def _engine(engine: Shipped) -> dict[str, Any]:
    return {
        "backend": engine.backend,
        "version": engine.record["version"],
        "compute_capabilities": _compute_capabilities(engine),
        "status": engine.rung["status"],
        **_accuracy(engine),
    }


def _compute_capabilities(engine: Shipped) -> list[str]:
    """Return the GPUs that a plan runs on; ``8.0+`` means that one and all later ones."""
    try:
        return list(engine.record["compute_capabilities"])
    except KeyError as e:
        raise ArtifactError(
            f"the metrics of build do not tell for which GPUs {engine.file} is; run `dvc repro`"
        ) from e


def hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return sha256 and size of every file in a folder, by relative path, sorted."""
    paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {
        name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for name, path in sorted(paths.items())
    }


def _tensor(tensor: TensorFacts) -> dict[str, Any]:
    return {"name": tensor.name, "type": tensor.type, "shape": ["batch", *tensor.shape]}


def _accuracy(shipped: Shipped) -> dict[str, float | None]:
    """Return the accuracy of exactly these bytes; None where they could not be run."""
    return {key: shipped.rung[key] for key in ("val_accuracy_pct", "test_accuracy_pct")}


def _latency(selection: Selection, benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was timed, by backend and batch, and with it how and on what."""
    own: Mapping[str, Any] = next(
        (level for level in benchmark["levels"] if level["level"] == selection.level), {}
    )
    timed, refused = (own.get(key, {}) for key in ("latency_ms", "not_timed"))
    return {
        "latency_ms": timed.get(selection.precision, {}),
        "not_timed": {**benchmark["not_timed"], **refused.get(selection.precision, {})},
        "protocol": benchmark["protocol"],
        "target": benchmark["target"],
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
    source, start = facts["prepare"]["source"], facts["model"]["initial_weights"]
    return {
        "scripts": "Apache-2.0",
        "images": {"source": source, "licence": LICENCES.get(source)},
        "initial_weights": {
            "source": start,
            "licence": "none needed" if start == "random" else None,
        },
    }
