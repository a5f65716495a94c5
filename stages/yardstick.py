"""Write what one variant's plan depends on beside the network: artifacts/yardstick/<variant>.json.

A plan by latency depends on this machine and on how engines are timed; any other on nothing, so
that it is not made again on another machine (docs/decisions/0011-plans-by-latency.md).
"""

from pipeline.benchmark.timing.protocol import machine
from pipeline.core.artifacts import artifacts_dir, read_json, write_json
from pipeline.core.params import load_params
from pipeline.core.stage_script import run_variant_stage


def main(variant: str) -> None:
    """Write the facts, none where the variant's `plan.search` measures no latency."""
    params = load_params()
    facts = {}
    if params.variant(variant).plan.measures_latency:
        target = machine(read_json(artifacts_dir("probe") / "target.json"))
        facts = {
            "target": target,
            "timing": params.benchmark.model_dump(exclude={"batch_sizes", "full_pass"}),
        }
    write_json(artifacts_dir("yardstick") / f"{variant}.json", facts)


if __name__ == "__main__":
    run_variant_stage(main)
