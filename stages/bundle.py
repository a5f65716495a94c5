"""Ship one variant: artifacts/bundle/<variant>-l<level>-<precision>/ and the same as .tar.gz.

python -m stages.bundle lacoot --level 3 --precision int8
"""

import argparse
from pathlib import Path

from models.errors import ArtifactError, ParamsError
from models.hashing import file_sha256
from pipeline.bundle.belonging import require_belonging
from pipeline.bundle.manifest import Facts
from pipeline.bundle.selection import batches_of, read_metrics, select
from pipeline.bundle.writer import write_bundle
from pipeline.core.artifacts import CACHE, artifacts_dir, locked, metrics_path, read_json
from pipeline.core.params import load_params
from pipeline.core.records import read_record
from pipeline.core.stage_script import run_stage
from pipeline.data.records import Prepared
from pipeline.report.tracking.dvc_lock import locked_stages
from stages.inputs import load_trained


def main() -> None:
    """Write the bundle of the level that was planned, or of the one named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", nargs="?", help="a name under `variants` in params.yaml")
    parser.add_argument("--level", type=int, help="number of removed blocks (default: as planned)")
    parser.add_argument("--precision", help="of the graph (default: bundle.precision)")
    parser.add_argument("--into", type=Path, default=artifacts_dir("bundle"), help="folder")
    parser.add_argument("--sign", type=Path, help="with this key of OpenSSH")
    options = parser.parse_args()
    bundle(options.variant, options.level, options.precision, options.into, options.sign)


def bundle(
    variant: str | None,
    level: int | None,
    precision: str | None,
    into: Path,
    key: Path | None = None,
) -> None:
    """Write one bundle and print where it is and what is in it."""
    params = load_params()
    if variant is None:
        raise ParamsError(f"name a variant (make bundle VARIANT=...): {', '.join(params.variants)}")
    params.variant(variant)
    require_belonging(locked_stages(), variant)
    metrics = read_metrics(variant)
    selection = select(metrics, level, precision or params.bundle.precision)
    _, spec, data = load_trained(variant)
    prepared = _prepared()
    facts = Facts(
        network=spec,
        images=prepared.source,
        pixels={"fit": prepared.fit, "transparent": prepared.transparent, "bits": prepared.bits},
        batch=batches_of(metrics.build),
        target=read_json(artifacts_dir("probe") / "target.json"),
    )
    with locked(CACHE / "bundle"):  # two at once would write the same folder and archive
        folder, archive = write_bundle(into, selection, facts, data, params.bundle.samples, key)
    for name, reason in selection.skipped.items():
        print(f"{folder.name}: skipped {name}: {reason}")
    files = len(read_json(folder / "manifest.json")["files"])
    print(f"{folder}: {files} files; try: python {folder / 'verify.py'}")
    print(f"{archive}: {archive.stat().st_size:,} bytes, sha256 {file_sha256(archive)}")


def _prepared() -> Prepared:
    manifest, metrics = artifacts_dir("prepare") / "manifest.json", metrics_path("prepare")
    if metrics.is_file() and read_json(metrics) != read_json(manifest):
        raise ArtifactError(f"{manifest} is not what {metrics} says; run `dvc repro -f prepare`")
    return read_record(manifest, Prepared)


if __name__ == "__main__":
    run_stage(main)
