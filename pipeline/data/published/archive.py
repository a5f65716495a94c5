"""What all published layouts share: finding the folder, and checking what its lists name."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError
from pipeline.core.params import Prepare
from pipeline.data.image_files import LabelledFiles, files_below, is_image


@dataclass(frozen=True)
class Layout:
    """The layout of a published data set.

    `expected` describes it in one line; of the `alternatives`, one must be there completely.
    """

    name: str
    expected: str
    alternatives: tuple[tuple[str, ...], ...]

    def nearest(self, root: Path) -> tuple[str, ...]:
        """Return the alternative of which `root` lacks the least."""
        return min(self.alternatives, key=lambda names: len(_missing(root, names)))

    def missing(self, root: Path) -> list[str]:
        """Return what `root` lacks of that alternative."""
        return _missing(root, self.nearest(root))


def _missing(root: Path, names: tuple[str, ...]) -> list[str]:
    # A closed folder beside the wanted one makes `Path.exists` raise an error.
    return [name for name in names if not os.access(root / name, os.F_OK)]


def locate(params: Prepare, layout: Layout) -> Path:
    """Return `prepare.path` as a folder that has the layout.

    Raises:
        DataError: it has not; where a folder one or two levels off has, the message names it.
    """
    assert params.path is not None, "Prepare requires a path for a published data set"
    root = Path(params.path).expanduser()
    if not root.is_dir():
        raise DataError(
            f"prepare.path = {params.path!r} is not a folder; it has to hold {layout.name}: "
            f"{layout.expected}"
        )
    if missing := layout.missing(root):
        for near in _around(root):
            if not layout.missing(near):
                raise DataError(
                    f"{layout.name} lies in {near}, not in {root}: set prepare.path to it"
                )
        raise DataError(
            f"{root} has no {', '.join(missing)}; {layout.name} is expected as {layout.expected}"
        )
    return root


def _around(root: Path) -> Iterator[Path]:
    """Yield the folders one and two levels above, then those one and two levels below."""
    yield from root.absolute().parents[:2]
    for pattern in ("*/", "*/*/"):
        yield from sorted(root.glob(pattern))


def checked_splits(
    root: Path, splits: dict[str, LabelledFiles], classes: list[str]
) -> dict[str, LabelledFiles]:
    """Return `splits` once every image is known to be there, and in one split only.

    Raises:
        DataError: an image is listed but missing, outside of `root` or listed twice; a split lacks
            a class.
    """
    seen: dict[Path, str] = {}
    for split, files in splits.items():
        for path, _ in files:
            if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
                raise DataError(
                    f"{path} is listed in {split} but lies outside of {root}; restore the "
                    "published lists"
                )
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


def warn_unlisted(folder: Path, splits: dict[str, LabelledFiles]) -> None:
    """Print how many images below a folder no list names: they are not used."""
    listed = {path for files in splits.values() for path, _ in files}
    if others := len(set(filter(is_image, files_below(folder))) - listed):
        print(f"{folder}: not used, in no list: {others} images")
