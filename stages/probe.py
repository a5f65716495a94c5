"""Look at this machine: artifacts/probe/target.json, which changes only when the machine does."""

from pipeline.artifacts import artifacts_dir, write_json
from pipeline.probe import probe
from stages import run_stage


def main() -> None:
    """Write the facts, and print which backends are here."""
    target = probe()
    write_json(artifacts_dir("probe") / "target.json", target)
    devices = ", ".join(d["name"] for d in target["devices"]) or "no CUDA device"
    print(f"{target['cpu']}, {target['cores']} cores; {devices}")
    for name, backend in target["backends"].items():
        print(f"  {name}: {backend.get('version') or 'not available: ' + backend['reason']}")


if __name__ == "__main__":
    run_stage(main)
