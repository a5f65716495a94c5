"""Time one variant's engines on this machine: metrics/benchmark/<variant>.json."""

from typing import Any

from pipeline.artifacts import artifacts_dir, metrics_path, read_json, write_json
from pipeline.benchmark import benchmark
from pipeline.contenders import graph_of
from pipeline.data import validation_sample
from pipeline.params import load_params
from pipeline.protocol import machine, protocol_lines
from stages import run_variant_stage


def main(variant: str) -> None:
    """Time every engine that passed the parity ladder and can run here; say which did not."""
    params = load_params()
    params.variant(variant)
    built, verified, typed = (
        read_json(metrics_path(stage, variant)) for stage in ("build", "verify", "precision")
    )
    timed = benchmark(
        variant,
        built,
        verified,
        artifacts_dir("build", variant),
        graph=lambda one: artifacts_dir("precision", variant) / graph_of(one, typed),
        images=validation_sample(artifacts_dir("prepare"), max(params.benchmark.batch_sizes)),
        params=params,
    )
    target = machine(read_json(artifacts_dir("probe") / "target.json"))
    write_json(metrics_path("benchmark", variant), {"variant": variant, "target": target, **timed})
    _print(variant, timed)


def _print(variant: str, timed: dict[str, Any]) -> None:
    print("\n".join(protocol_lines(timed["protocol"])))
    for backend, reason in timed["not_timed"].items():
        print(f"{variant}: {backend} not timed: {reason}")
    for level in timed["levels"]:
        for precision, by_backend in level["latency_ms"].items():
            for backend, batches in by_backend.items():
                p50s = ", ".join(
                    f"{t['p50']:.2f} ms at batch {size}" for size, t in batches.items()
                )
                print(f"{variant}: level {level['level']}  {precision} {backend} p50 {p50s}")


if __name__ == "__main__":
    run_variant_stage(main)
