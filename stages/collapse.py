"""Collapse one variant's ONNX graph to every level of its plan, each proven equal to PyTorch.

The graph is that of `export`, or where a level is shipped with repaired weights, one with these,
which is exported here (docs/decisions/0012-healed-levels-are-exported.md). Writes
artifacts/collapse/<variant>/level_<n>.onnx and metrics/collapse/<variant>.json.
"""

from models.surgery import restore
from models.unit_selection import select_units
from pipeline.collapse.level import collapse_level
from pipeline.collapse.records import CollapseMetrics
from pipeline.core.artifacts import artifacts_dir, metrics_path, replace_dir
from pipeline.core.params import load_params
from pipeline.core.records import read_record, write_record
from pipeline.core.stage_script import run_variant_stage
from pipeline.export.exporter import export_onnx
from pipeline.plan.networks import shipped_network
from pipeline.plan.records import HealMetrics
from stages.inputs import load_trained


def main(variant: str) -> None:
    """Write, compare and evaluate the graph of every level."""
    params = load_params()
    method = params.variant(variant).method
    model, spec, data = load_trained(variant)
    example = spec.example()
    levels = []
    with replace_dir(artifacts_dir("collapse", variant)) as folder:
        for healed in read_record(metrics_path("heal", variant), HealMetrics).levels:
            shallow = shipped_network(model, variant, healed)
            source = artifacts_dir("export", variant) / "model.onnx"
            if healed.is_repaired:
                # The blocks are restored for the export, so that this graph, too, is collapsed.
                whole = restore(shallow, model, healed.removed)
                units = select_units(model, example, method.mode, method.unit).units
                source = export_onnx(whole, example, folder / "whole.onnx", blocks=units)
            level = collapse_level(
                healed.level,
                shallow,
                healed.removed,
                source,
                folder,
                made_by="export" if healed.is_repaired else "collapse",
                data=data,
                params=params.collapse,
            )
            levels.append(level)
            print(
                f"{variant}: level {level.level}  {level.macs / 1e6:.2f} MMACs  "
                f"test {level.test_accuracy_pct:.2f} %  "
                f"equal to PyTorch within {level.parity.max_rel:.1e}",
                flush=True,
            )
        (folder / "whole.onnx").unlink(missing_ok=True)
    metrics = CollapseMetrics(variant, **params.collapse.model_dump(), levels=levels)
    write_record(metrics_path("collapse", variant), metrics)


if __name__ == "__main__":
    run_variant_stage(main)
