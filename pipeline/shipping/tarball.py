"""Archives that depend on nothing but the names and contents of the files in them."""

import gzip
import tarfile
from pathlib import Path

EXECUTABLE = ".sh"


def write_tarball(folder: Path, target: Path) -> None:
    """Write a folder as .tar.gz: sorted, without times and owners, under the folder's own name.

    The same files give the same bytes (of one version of zlib), whenever and by whom they are made.
    """
    with (
        target.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        paths = {p.relative_to(folder.parent).as_posix(): p for p in folder.rglob("*")}
        for name, path in sorted(paths.items()):
            if path.is_dir():
                continue
            entry = tarfile.TarInfo(name)  # a plain file of root's, of 1970
            entry.size = path.stat().st_size
            entry.mode = 0o755 if path.suffix == EXECUTABLE else 0o644
            with path.open("rb") as content:
                archive.addfile(entry, content)
