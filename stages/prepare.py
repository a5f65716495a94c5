"""Fetch or read the images and write them in one size: artifacts/prepare, metrics/prepare.json."""

import io
import sys
from typing import Any

from pipeline.core.artifacts import artifacts_dir, metrics_path, replace_dir, write_json
from pipeline.core.params import load_params
from pipeline.core.stage_script import run_stage
from pipeline.data.prepare import prepare


def main() -> None:
    """Prepare the images that params.yaml names."""
    params = load_params().prepare
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    with replace_dir(artifacts_dir("prepare")) as target:
        manifest = prepare(params, target)
    write_json(metrics_path("prepare"), manifest)
    print(_summary(manifest))


def _summary(manifest: dict[str, Any]) -> str:
    sizes = {split: sum(classes.values()) for split, classes in manifest["counts"].items()}
    size = manifest["image_size"]
    return (
        f"prepared {manifest['source']}: "
        + ", ".join(f"{n} {split}" for split, n in sizes.items())
        + f" images of {manifest['channels']}×{size}×{size} in {len(manifest['classes'])} classes, "
        f"{len(manifest['skipped'])} skipped"
    )


if __name__ == "__main__":
    run_stage(main)
