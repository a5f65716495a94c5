"""Plan one variant's removals: artifacts/plan/<variant>/ and metrics/plan/<variant>.json."""

from models.replacements import save
from pipeline.artifacts import artifacts_dir, metrics_path, read_json, replace_dir, write_json
from pipeline.devices import pick_device
from pipeline.networks import load_trained
from pipeline.params import load_params
from pipeline.plan import in_graph, plan, removal_order
from stages import run_variant_stage


def main(variant: str) -> None:
    """Order the units by the chosen criterion, measure every level, choose one."""
    params = load_params()
    params.variant(variant)
    scored = read_json(metrics_path("score", variant))
    automatic = params.plan.criterion == "auto"
    criterion = scored["criterion"] if automatic else params.plan.criterion
    model, _, images = load_trained(variant)
    exported = read_json(metrics_path("export", variant))["blocks"]
    order, left_out = in_graph(removal_order(scored["scores"][criterion]), exported)
    for name, reason in left_out.items():
        print(f"{variant}: block {name} is left out: it {reason}")
    planned, stand_ins = plan(model, order, images, params.plan, pick_device())
    with replace_dir(artifacts_dir("plan", variant)) as folder:
        for level, own in enumerate(stand_ins):
            if own:
                save(own, folder / f"level_{level}.safetensors")
    metrics = {
        "variant": variant,
        "criterion": criterion,
        "max_accuracy_drop_pct": params.plan.max_accuracy_drop_pct,
        "order": order,
        "left_out": left_out,
        **planned,
    }
    write_json(metrics_path("plan", variant), metrics)
    for level in planned["levels"]:
        chosen = "  <- chosen" if level["level"] == planned["chosen_level"] else ""
        print(
            f"{variant}: level {level['level']}  val {level['val_accuracy_pct']:.2f} %  "
            f"with {level['replacement']}{chosen}"
        )


if __name__ == "__main__":
    run_variant_stage(main)
