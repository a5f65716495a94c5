"""Plan one variant's removals: artifacts/plan/<variant>/ and metrics/plan/<variant>.json."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from models.replacements import save
from pipeline.artifacts import artifacts_dir, metrics_path, read_json, replace_dir, write_json
from pipeline.channel_maps import as_maps
from pipeline.collapse import collapse_onnx
from pipeline.data import validation_sample
from pipeline.devices import pick_device
from pipeline.graph_latency import graph_latencies_ms
from pipeline.networks import load_trained
from pipeline.params import Benchmark, Plan, load_params
from pipeline.plan import LatenciesMs, candidates, plan
from pipeline.search import OWN_CRITERIA, Shallow
from stages import run_variant_stage


def main(variant: str) -> None:
    """Search for the order of the units, measure every level, choose one."""
    params = load_params()
    settings = params.variant(variant).plan
    scored = read_json(metrics_path("score", variant))
    exported = read_json(metrics_path("export", variant))["blocks"]
    who, left_out = candidates(scored, exported, settings, params.score)
    for name, reason in left_out.items():
        print(f"{variant}: block {name} is left out: it {reason}")
    model, _, images = load_trained(variant)
    timer, device = _timer(variant, settings, params.benchmark), pick_device()
    planned, stand_ins = plan(model, who, images, settings, latencies_ms=timer, device=device)
    with replace_dir(artifacts_dir("plan", variant)) as folder:
        for level, own in enumerate(stand_ins):
            if own:
                save(own, folder / f"level_{level}.safetensors")
    metrics = {
        "variant": variant,
        "search": settings.search,
        "criterion": OWN_CRITERIA.get(settings.search, who.criterion),
        "max_accuracy_drop_pct": settings.max_accuracy_drop_pct,
        "order": planned.pop("order"),
        "left_out": left_out,
        **planned,
    }
    if settings.measures_latency:
        metrics["measured_on"] = read_json(artifacts_dir("yardstick") / f"{variant}.json")
    write_json(metrics_path("plan", variant), metrics)
    _print(variant, metrics)


def _timer(variant: str, settings: Plan, timing: Benchmark) -> LatenciesMs:
    """Return what times the graphs of shallow networks on this machine."""

    def latencies_ms(networks: Sequence[Shallow]) -> list[float]:
        source = artifacts_dir("export", variant) / "model.onnx"
        images = validation_sample(artifacts_dir("prepare"), settings.latency_batch)
        with TemporaryDirectory() as folder:
            graphs = [Path(folder) / f"{number}.onnx" for number in range(len(networks))]
            for graph, network in zip(graphs, networks, strict=True):
                collapse_onnx(source, graph, network.removed, as_maps(network.stand_ins))
            return graph_latencies_ms(graphs, images, settings.latency_batch, timing)

    return latencies_ms


def _print(variant: str, planned: dict[str, Any]) -> None:
    for name, found in planned["dead"].items():
        print(f"{variant}: block {name} is dead ({found['how']}): it adds a constant, which stays")
    for name, ms in planned.get("savings_ms", {}).items():
        print(f"{variant}: block {name} alone saves {ms:.3f} of {planned['whole_ms']:.3f} ms")
    for level in planned["levels"]:
        chosen = "  <- chosen" if level["level"] == planned["chosen_level"] else ""
        latency = f"  {level['latency_ms']:.3f} ms" if "latency_ms" in level else ""
        print(
            f"{variant}: level {level['level']}  val {level['val_accuracy_pct']:.2f} %  "
            f"with {level['replacement']}{latency}{chosen}"
        )


if __name__ == "__main__":
    run_variant_stage(main)
