"""Score one variant's removable blocks by every criterion: metrics/score/<variant>.json."""

import dataclasses

from models.blocks import find_blocks
from pipeline.artifacts import metrics_path, write_json
from pipeline.devices import pick_device
from pipeline.networks import load_trained
from pipeline.params import load_params
from pipeline.score import score
from stages import run_variant_stage


def main(variant: str) -> None:
    """Find the blocks of the trained network and score those that can be removed."""
    params = load_params()
    params.variant(variant)
    model, spec, images = load_trained(variant)
    blocks = find_blocks(model, spec.example())
    removable = [block.name for block in blocks if block.removable]
    scored = score(model, removable, images, params.score, pick_device())
    metrics = {
        "variant": variant,
        "samples": min(params.score.samples, len(images.train.labels)),
        "blocks": [dataclasses.asdict(block) for block in blocks],
        **scored,
    }
    write_json(metrics_path("score", variant), metrics)
    print(f"{variant}: {len(removable)} of {len(blocks)} blocks are removable")
    for name in removable:
        print(f"  {name}: msw {scored['scores']['msw'][name]:.4f}")


if __name__ == "__main__":
    run_variant_stage(main)
