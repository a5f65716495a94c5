"""Ship one variant: artifacts/bundle/<variant>-l<level>-<precision>/ and the same as .tar.gz.

python -m stages.bundle lacoot --level 3 --precision int8
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from models.errors import ParamsError
from models.hashing import file_sha256
from pipeline.artifacts import artifacts_dir, metrics_path, read_json
from pipeline.bundle import write_bundle
from pipeline.networks import load_trained
from pipeline.params import load_params
from pipeline.shipping.contents import Sources
from pipeline.shipping.selection import PLANS, select
from pipeline.verify import engine_tolerance
from stages import run_stage

STAGES = ("heal", "precision", "build", "verify", "benchmark")
RUNS_IN_A_BUNDLE = ("onnxruntime", *PLANS)


def main() -> None:
    """Write the bundle of the level that was planned, or of the one named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", nargs="?", help="a name under `variants` in params.yaml")
    parser.add_argument("--level", type=int, help="number of removed blocks (default: as planned)")
    parser.add_argument("--precision", help="of the graph (default: bundle.precision)")
    parser.add_argument("--into", type=Path, default=artifacts_dir("bundle"), help="folder")
    options = parser.parse_args()
    bundle(options.variant, options.level, options.precision, options.into)


def bundle(variant: str | None, level: int | None, precision: str | None, into: Path) -> None:
    """Write one bundle and print where it is and what is in it."""
    params = load_params()
    if variant is None:
        raise ParamsError(f"name a variant (make bundle VARIANT=...): {', '.join(params.variants)}")
    params.variant(variant)
    facts = {stage: read_json(metrics_path(stage, variant)) for stage in STAGES}
    selection = select(facts, level, precision or params.bundle.precision)
    _, spec, data = load_trained(variant)
    facts |= {
        "model": asdict(spec),
        "prepare": read_json(artifacts_dir("prepare") / "manifest.json"),
        "target": read_json(artifacts_dir("probe") / "target.json"),
    }
    sources = Sources(
        collapsed=artifacts_dir("collapse", variant) / f"level_{selection.level}.onnx",
        graphs=artifacts_dir("precision", variant),
        engines=artifacts_dir("build", variant),
        data=data,
    )
    tolerances = {
        name: asdict(engine_tolerance(selection.precision, name)) for name in RUNS_IN_A_BUNDLE
    }
    folder, archive = write_bundle(into, selection, facts, sources, params, tolerances)
    _print(folder, archive, selection.left_out)


def _print(folder: Path, archive: Path, left_out: dict[str, str]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, reason in left_out.items():
        print(f"{folder.name}: left out {name}: {reason}")
    print(f"{folder}: {len(manifest['files'])} files; try: python {folder / 'verify.py'}")
    print(f"{archive}: {archive.stat().st_size:,} bytes, sha256 {file_sha256(archive)}")


if __name__ == "__main__":
    run_stage(main)
