"""Score one variant's removable units by every criterion: metrics/score/<variant>.json."""

import dataclasses

from pipeline.artifacts import metrics_path, write_json
from pipeline.devices import pick_device
from pipeline.method import select_units
from pipeline.networks import load_trained
from pipeline.params import load_params
from pipeline.score import score
from stages import run_variant_stage


def main(variant: str) -> None:
    """Find the units of the trained network and score those that can be removed."""
    params = load_params()
    method = params.variant(variant).method
    model, spec, images = load_trained(variant)
    selection = select_units(method, model, spec.example())
    scored = score(model, selection.removable, images, params.score, pick_device())
    metrics = {
        "variant": variant,
        "samples": min(params.score.samples, len(images.train.labels)),
        "mode": method.mode,
        "unit": selection.unit,
        "criterion": selection.criterion,  # what the mode orders by
        "blocks": [dataclasses.asdict(unit) for unit in selection.units],
        **scored,
    }
    write_json(metrics_path("score", variant), metrics)
    print(
        f"{variant}: {len(selection.removable)} of {len(selection.units)} units are removable "
        f"(mode {method.mode}, unit {selection.unit})"
    )
    for name, distance in scored["scores"]["msw"].items():
        print(f"  {name}: msw {distance:.4f}")


if __name__ == "__main__":
    run_variant_stage(main)
