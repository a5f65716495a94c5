"""What `prepare` writes: manifest.json beside the images, and the same as metrics/prepare.json."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Counts:
    """Numbers of images by class, split by split."""

    train: dict[str, int]
    validation: dict[str, int]
    test: dict[str, int]


@dataclass(frozen=True)
class SkippedFile:
    """A file that could not be read."""

    file: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """The images of a project: what they were made of, how, and what they are."""

    source: str
    classes: list[str]  # by label
    image_size: int  # pixels, of both sides
    fit: str  # this, transparent and bits: as in params.yaml
    transparent: str
    bits: int
    channels: int
    mean: list[float]  # per channel, of pixels scaled to 0..1, over the training images
    std: list[float]
    counts: Counts
    skipped: list[SkippedFile]
    warnings: list[str]
    sha256: dict[str, str]  # by file

    @property
    def images(self) -> dict[str, int]:
        """Numbers of images by split."""
        return {split: sum(by_class.values()) for split, by_class in asdict(self.counts).items()}
