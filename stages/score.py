"""Score one variant's removable units by every criterion: metrics/score/<variant>.json."""

from models.unit_selection import select_units
from pipeline.core.artifacts import metrics_path
from pipeline.core.devices import pick_device
from pipeline.core.params import load_params
from pipeline.core.records import write_record
from pipeline.core.stage_script import run_variant_stage
from pipeline.plan.scoring.score import score
from stages.inputs import load_trained


def main(variant: str) -> None:
    """Find the units of the trained network and score those that can be removed."""
    params = load_params()
    method = params.variant(variant).method
    model, spec, data = load_trained(variant)
    selection = select_units(model, spec.example(), method.mode, method.unit)
    scored = score(
        variant, model, selection, data, params=params.score, method=method, device=pick_device()
    )
    write_record(metrics_path("score", variant), scored)
    print(
        f"{variant}: {len(selection.removable)} of {len(selection.units)} units are removable "
        f"(mode {method.mode}, unit {selection.unit})"
    )
    for name, distance in scored.scores["msw"].items():
        print(f"  {name}: msw {distance:.4f}")


if __name__ == "__main__":
    run_variant_stage(main)
