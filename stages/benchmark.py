"""Time one variant's engines on this machine: metrics/benchmark/<variant>.json."""

from typing import Any

from pipeline import data
from pipeline.artifacts import artifacts_dir, metrics_path, read_json, write_json
from pipeline.benchmark import benchmark
from pipeline.engines.interface import Images
from pipeline.params import load_params
from stages import run_variant_stage


def main(variant: str) -> None:
    """Time every level on every backend that can run here; say which cannot, and why."""
    params = load_params()
    params.variant(variant)
    built = read_json(metrics_path("build", variant))
    timed = benchmark(
        built,
        artifacts_dir("build", variant),
        artifacts_dir("collapse", variant),
        _images(params.benchmark.batch_sizes[-1]),
        params,
    )
    metrics = {"variant": variant, "target": _target(), **timed}
    write_json(metrics_path("benchmark", variant), metrics)
    _print(variant, timed)


def _images(at_most: int) -> Images:
    """Return real validation images, normalised."""
    images = data.load(artifacts_dir("prepare"))
    some = data.subset(images.validation, at_most, seed=0)
    [(batch, _)] = data.batches(some, len(some), mean=images.mean, std=images.std, device="cpu")
    return batch.numpy()


def _target() -> dict[str, Any]:
    """Return what `probe` found, with the backends' versions alone."""
    target: dict[str, Any] = read_json(artifacts_dir("probe") / "target.json")
    backends = target.pop("backends")
    versions = {
        name: backend["version"] for name, backend in backends.items() if "version" in backend
    }
    return target | {"versions": versions}


def _print(variant: str, timed: dict[str, Any]) -> None:
    for backend, reason in timed["not_timed"].items():
        print(f"{variant}: {backend} not timed: {reason}")
    for level in timed["levels"]:
        for backend, batches in level["latency_ms"].items():
            p50s = ", ".join(f"{t['p50']:.2f} ms at batch {size}" for size, t in batches.items())
            print(f"{variant}: level {level['level']}  {backend} p50 {p50s}")


if __name__ == "__main__":
    run_variant_stage(main)
