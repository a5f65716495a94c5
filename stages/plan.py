"""Plan one variant's removals: artifacts/plan/<variant>/ and metrics/plan/<variant>.json."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from models.replacement.modules import save
from pipeline.benchmark.timing.graphs import graph_latencies_ms
from pipeline.collapse.channel_maps import as_maps
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.core.artifacts import artifacts_dir, metrics_path, read_json, replace_dir
from pipeline.core.devices import pick_device
from pipeline.core.params import Benchmark, Plan, load_params
from pipeline.core.records import read_record, write_record
from pipeline.core.stage_script import run_variant_stage
from pipeline.data.dataset import validation_sample
from pipeline.export.records import ExportMetrics
from pipeline.plan.level import ShallowNetwork
from pipeline.plan.scoring.records import ScoreMetrics
from pipeline.plan.search.description import plan_lines, plan_metrics
from pipeline.plan.search.planning import LatenciesMs, candidates, plan
from stages.inputs import load_trained


def main(variant: str) -> None:
    """Search for the order of the units, measure every level, choose one."""
    params = load_params()
    settings = params.variant(variant).plan
    scored = read_record(metrics_path("score", variant), ScoreMetrics)
    exported = read_record(metrics_path("export", variant), ExportMetrics)
    units = candidates(scored, exported.blocks, settings, params.score)
    model, _, data = load_trained(variant)
    timer, device = _timer(variant, settings, params.benchmark), pick_device()
    found, dead = plan(model, units, data, settings, latencies_ms=timer, device=device)
    with replace_dir(artifacts_dir("plan", variant)) as folder:
        for number, level in enumerate(found.levels):
            if level.replacements:
                save(level.replacements, folder / f"level_{number}.safetensors")
    yardstick = artifacts_dir("yardstick") / f"{variant}.json"
    measured_on = read_json(yardstick) if settings.measures_latency else None
    planned = plan_metrics(variant, units, settings, found, dead, measured_on)
    write_record(metrics_path("plan", variant), planned)
    for line in plan_lines(planned):
        print(f"{variant}: {line}")


def _timer(variant: str, settings: Plan, timing: Benchmark) -> LatenciesMs:
    """Return what times the collapsed graphs of shallow networks on this machine."""

    def latencies_ms(networks: Sequence[ShallowNetwork]) -> list[float]:
        source = artifacts_dir("export", variant) / "model.onnx"
        images = validation_sample(artifacts_dir("prepare"), settings.latency_batch)
        with TemporaryDirectory() as folder:
            graphs = [Path(folder) / f"{number}.onnx" for number in range(len(networks))]
            for graph, network in zip(graphs, networks, strict=True):
                collapse_onnx(source, graph, network.removed, as_maps(network.replacements))
            return graph_latencies_ms(graphs, images, settings.latency_batch, timing)

    return latencies_ms


if __name__ == "__main__":
    run_variant_stage(main)
