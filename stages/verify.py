"""Climb one variant's parity ladder: metrics/verify/<variant>.json.

A rung that fails is recorded, and nothing below it is timed or shipped.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.hashing import file_sha256
from pipeline.artifacts import (
    artifacts_dir,
    metrics_path,
    read_json,
    require_unchanged,
    write_json,
)
from pipeline.data import batches, subset
from pipeline.emulation import EMULATED, emulated
from pipeline.engines.interface import Run
from pipeline.engines.onnxruntime import runner
from pipeline.graph_types import HALF
from pipeline.networks import load_trained
from pipeline.onnx_graph import load_onnx
from pipeline.params import load_params
from pipeline.progress import progress
from pipeline.verify import Inputs, Rung, engine_rung, precision_rung, proven_rungs, same_bytes_rung
from stages import run_variant_stage

IN_FLOAT32 = "each Q, DQ and operator computed in float32, as the ONNX standard defines them"
STAGES = ("heal", "export", "collapse", "precision", "build")


def main(variant: str) -> None:
    """Prove every precision's graph and every engine that can run here; tell what cannot."""
    params = load_params()
    params.variant(variant)
    facts = {stage: read_json(metrics_path(stage, variant)) for stage in STAGES}
    _, _, data = load_trained(variant)
    sample = subset(data.validation, params.verify.samples, seed=0)
    [(images, _)] = batches(sample, len(sample), mean=data.mean, std=data.std, device="cpu")
    inputs = Inputs(images.numpy(), data, params.build)
    levels = []
    for number in progress(range(len(facts["heal"]["levels"])), "verify", unit="level"):
        rungs = climb(variant, facts, number, inputs)
        levels.append(
            {
                "level": facts["heal"]["levels"][number]["level"],
                "removed": facts["heal"]["levels"][number]["removed"],
                "rungs": [asdict(rung) for rung in rungs],
            }
        )
        _print(variant, levels[-1])
    write_json(
        metrics_path("verify", variant),
        {"variant": variant, "images": len(sample), "levels": levels},
    )


def climb(variant: str, facts: dict[str, Any], number: int, inputs: Inputs) -> list[Rung]:
    """Return all rungs of a level, those that earlier stages have proven included."""
    healed, collapsed, typed, built = (
        facts[stage]["levels"][number] for stage in ("heal", "collapse", "precision", "build")
    )
    tolerances = {stage: facts[stage]["tolerance"] for stage in ("export", "collapse")}
    whole = facts["heal"]["levels"][0]
    proven = proven_rungs(healed, whole, facts["export"], collapsed, tolerances)
    source = artifacts_dir("collapse", variant) / collapsed["file"]
    source_sha256 = collapsed["sha256"]
    expected = runner(require_unchanged(source, source_sha256))(inputs.images)
    rungs = [*proven]
    for precision, graph in typed["graphs"].items():
        by_backend: dict[str | None, tuple[Rung, Run]] = {}
        for backend, name in {None: graph["file"], **graph.get("files", {})}.items():
            path = artifacts_dir("precision", variant) / name
            run, note = _runner(path, precision, backend)
            sha256 = file_sha256(path)
            if sha256 == source_sha256:
                rung = same_bytes_rung(precision, proven[-1], sha256)
            else:
                rung = precision_rung(
                    precision, run, expected, inputs, sha256=sha256, backend=backend, note=note
                )
            by_backend[backend] = rung, run
            rungs.append(rung)
        for backend, engine in built["engines"].get(precision, {}).items():
            above, run = by_backend.get(backend, by_backend[None])
            file = artifacts_dir("build", variant) / engine["file"]
            rungs.append(engine_rung(above, backend, file, run, inputs))
    return rungs


def _runner(path: Path, precision: str, backend: str | None) -> tuple[Run, str | None]:
    """Return the graph as a function, and how it is run where not as it stands."""
    if precision in HALF:
        return runner(emulated(load_onnx(path)).SerializeToString()), EMULATED
    if precision == "int8" and backend is None:
        return runner(path, integer_kernels=False), IN_FLOAT32
    return runner(path), None


def _print(variant: str, level: dict[str, Any]) -> None:
    told = [rung for rung in level["rungs"] if rung["rung"] in ("precision", "engine")]
    for rung in told:
        what = " ".join(filter(None, [rung["precision"], rung["backend"]]))
        numbers = (
            f"off by {rung['max_rel']:.1e}, test {rung['test_accuracy_pct']:.2f} %"
            if rung["status"] == "passed"
            else rung["reason"]
        )
        print(f"{variant}: level {level['level']}  {what}: {rung['status']}, {numbers}", flush=True)


if __name__ == "__main__":
    run_variant_stage(main)
