"""Archives that depend on nothing but the names and contents of the files in them."""

import gzip
import tarfile
from pathlib import Path

EXECUTABLE = ".sh"


def write_tarball(folder: Path, name: str, target: Path) -> None:
    """Write a folder as .tar.gz, under that name: sorted, without times and owners.

    The same files give the same bytes (of one version of zlib), whenever and by whom they are made.
    """
    with (
        target.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        for relative, path in sorted(paths.items()):
            entry = tarfile.TarInfo(f"{name}/{relative}")  # a plain file of root's, of 1970
            entry.size = path.stat().st_size
            entry.mode = 0o755 if path.suffix == EXECUTABLE else 0o644
            with path.open("rb") as content:
                archive.addfile(entry, content)
