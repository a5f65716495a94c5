"""What all published layouts share: finding the folder, reading lists, checking the splits."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError
from pipeline.image_files import LabelledFiles
from pipeline.params import Prepare


@dataclass(frozen=True)
class Layout:
    """The layout of a published data set.

    `expected` tells all of it in one line; of the `alternatives`, one must lie in its folder whole.
    """

    name: str
    expected: str
    alternatives: tuple[tuple[str, ...], ...]

    def nearest(self, root: Path) -> tuple[str, ...]:
        """Return the alternative of which `root` lacks the least."""
        return min(self.alternatives, key=lambda names: len(_missing(root, names)))

    def fits(self, root: Path) -> bool:
        """Tell whether nothing is missing."""
        return not _missing(root, self.nearest(root))


def _missing(root: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not _is_there(root / name)]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # a neighbouring folder that is closed to us
        return False


def locate(params: Prepare, layout: Layout) -> Path:
    """Return `prepare.path` as a folder that has the layout.

    Raises:
        DataError: it has not; where the layout lies a level or two above or below, says so.
    """
    assert params.path is not None, "Prepare requires a path for a published data set"
    root = Path(params.path).expanduser()
    if not root.is_dir():
        raise DataError(
            f"prepare.path = {params.path!r} is not a folder; it has to hold {layout.name}: "
            f"{layout.expected}"
        )
    if layout.fits(root):
        return root
    for near in _around(root):
        if layout.fits(near):
            raise DataError(f"{layout.name} lies in {near}, not in {root}: set prepare.path to it")
    missing = ", ".join(_missing(root, layout.nearest(root)))
    raise DataError(f"{root} has no {missing}; {layout.name} is expected as {layout.expected}")


def _around(root: Path) -> Iterator[Path]:
    """Yield the folders one and two levels above, then those one and two levels below."""
    yield from root.absolute().parents[:2]
    for parent, folders, _ in os.walk(root):
        yield from (Path(parent, name) for name in sorted(folders))
        if Path(parent) != root:
            folders.clear()


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a list that are not blank, each with its place, "<file>, line <n>".

    Raises:
        DataError: the file cannot be read, is no text, has no such line, or one of them names what
            lies elsewhere.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not a text file ({e}); restore the published one") from e
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from e
    lines = enumerate(text.splitlines(), start=1)
    found = [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]
    if not found:
        raise DataError(f"{path} is empty; restore the published one")
    for place, line in found:
        if line.startswith(("/", "\\")) or ".." in re.split(r"[\s/\\]", line):
            raise DataError(
                f"{place}: {line!r} leads out of the data set; restore the published one"
            )
    return found


def checked_splits(
    splits: dict[str, LabelledFiles], classes: list[str]
) -> dict[str, LabelledFiles]:
    """Return `splits` once every image is known to be there, and in one split only.

    Raises:
        DataError: an image is listed but missing, or listed twice; a split lacks a class.
    """
    seen: dict[Path, str] = {}
    for split, files in splits.items():
        for path, _ in files:
            if path in seen:
                raise DataError(
                    f"{path} is listed twice, in {seen[path]} and in {split}; an image belongs to "
                    "one split: restore the published lists"
                )
            seen[path] = split
            if not path.exists():
                raise DataError(f"{path} is listed in {split} but missing; unpack the images again")
        for label in sorted(set(range(len(classes))) - {label for _, label in files}):
            raise DataError(
                f"class {classes[label]!r} has no image in {split}; restore what was published"
            )
    return splits


def tell_unlisted(folder: Path, images: list[Path], splits: dict[str, LabelledFiles]) -> None:
    """Say how many images of a folder no list names: they are not used."""
    listed = {path for files in splits.values() for path, _ in files}
    if others := len(set(images) - listed):
        print(f"{folder}: not used, in no list: {others} images")
