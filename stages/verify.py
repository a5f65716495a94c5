"""Check one variant's parity chain: metrics/verify/<variant>.json."""

from pipeline.collapse.records import CollapseMetrics
from pipeline.core.artifacts import artifacts_dir, metrics_path
from pipeline.core.params import load_params
from pipeline.core.progress import progress
from pipeline.core.records import read_record, write_record
from pipeline.core.stage_script import run_variant_stage
from pipeline.engines.records import BuildMetrics, ParityCheck, PrecisionMetrics, VerifyMetrics
from pipeline.engines.verify import Inputs, earlier_check, level_checks
from pipeline.export.records import ExportMetrics
from pipeline.plan.records import HealMetrics
from stages.inputs import load_trained


def main(variant: str) -> None:
    """Check every precision's graph and every engine that can run here; report what cannot."""
    params = load_params()
    params.variant(variant)
    healed = read_record(metrics_path("heal", variant), HealMetrics)
    exported = read_record(metrics_path("export", variant), ExportMetrics)
    collapsed = read_record(metrics_path("collapse", variant), CollapseMetrics)
    typed = read_record(metrics_path("precision", variant), PrecisionMetrics)
    built = read_record(metrics_path("build", variant), BuildMetrics)
    _, _, data = load_trained(variant)
    images = data.normalised(data.validation.sample(params.verify.samples)).numpy()
    source, graphs, engines = (
        artifacts_dir(s, variant) for s in ("collapse", "precision", "build")
    )
    inputs = Inputs(images, data, params.build, graphs, engines)
    checks: list[ParityCheck] = []
    levels = list(zip(healed.levels, collapsed.levels, strict=True))
    for network, graph in progress(levels, "verify", unit="level"):
        proven = earlier_check(
            graph.level,
            "collapsed onnx",
            "repaired torch" if network.is_repaired else "bypassed torch",
            graph.parity,
            collapsed.tolerance,
            val_accuracy_pct=graph.val_accuracy_pct,
            test_accuracy_pct=graph.test_accuracy_pct,
            sha256=graph.sha256,
        )
        before = None if network.is_repaired else exported
        for check in level_checks(before, proven, source / graph.file, typed, built, inputs):
            print(f"{variant}: {check}", flush=True)
            checks.append(check)
    write_record(metrics_path("verify", variant), VerifyMetrics(variant, len(images), checks))


if __name__ == "__main__":
    run_variant_stage(main)
