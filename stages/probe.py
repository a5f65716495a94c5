"""Look at this machine: artifacts/probe/target.json, which changes only when the machine does.

As `sources`, it validates params.yaml before any stage of a variant is run.
"""

from pipeline.core.artifacts import artifacts_dir, write_json
from pipeline.core.params import PARAMS, load_params
from pipeline.core.stage_script import run_stage
from pipeline.engines.backends.probe import probe


def main() -> None:
    """Write the facts, and print which backends are here."""
    if PARAMS.exists():
        load_params()
    target = probe()
    write_json(artifacts_dir("probe") / "target.json", target)
    devices = ", ".join(d["name"] for d in target["devices"]) or "no CUDA device"
    print(f"{target['cpu']}, {target['cores']} cores; {devices}")
    for name, backend in target["backends"].items():
        print(f"  {name}: {backend.get('version') or 'not available: ' + backend['reason']}")


if __name__ == "__main__":
    run_stage(main)
