"""Tiny folders in the layouts in which data sets were published, with real image files."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from pipeline.core.params import Prepare
from pipeline.data.prepare import SOURCES
from pipeline.data.source import Source

Writer = Callable[[Path], Path]
Write = Callable[[str, Path], Path]  # the fixture `write`
WNIDS = ("n02124075", "n01443537", "n04067472")  # not sorted, as in wnids.txt
PACS_DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


def write_image(path: Path, seed: int, height: int = 24, width: int = 20) -> None:
    """Write a colour image of four flat quarters, so that JPEG keeps it well; all differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quarters = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    pixels = quarters.repeat(-(-height // 2), 0)[:height].repeat(-(-width // 2), 1)[:, :width]
    with path.open("wb") as file:  # the suffix .JPEG and so on says nothing to Pillow here
        Image.fromarray(pixels).save(file, "PNG" if path.suffix == ".png" else "JPEG")


# --- CIFAR-10 -------------------------------------------------------------------------------


def batch(start: int, classes: int = 2, count: int = 20) -> dict[str, object]:
    rng = np.random.default_rng(start)
    return {
        "batch_label": "a batch",
        "labels": [row % classes for row in range(count)],
        "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        "filenames": [f"{start + row:06}.png" for row in range(count)],
    }


def cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch(number), protocol=2))
    (folder / "test_batch").write_bytes(pickle.dumps(batch(6), protocol=2))
    meta = {"label_names": ["airplane", "automobile"], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


# --- the others -----------------------------------------------------------------------------


def tiny_imagenet(root: Path) -> Path:
    folder = root / "tiny-imagenet-200"
    annotations = []
    for label, wnid in enumerate(WNIDS):
        for i in range(10):
            write_image(folder / f"train/{wnid}/images/{wnid}_{i}.JPEG", 100 * label + i)
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        for i in (label, label + 3):
            write_image(folder / f"val/images/val_{i}.JPEG", 1000 + i)
            annotations.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t19\t23\n")
    write_image(folder / "test/images/test_0.JPEG", 2000)
    (folder / "val/val_annotations.txt").write_text("".join(annotations))
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    words = ("Egyptian cat", "goldfish, Carassius auratus", "reel")
    lines = [f"{wnid}\t{word}\n" for wnid, word in zip(WNIDS, words, strict=True)]
    (folder / "words.txt").write_text("n00001740\tentity\n" + "".join(lines))
    return folder


def _domains(folder: Path, domains: tuple[str, ...], classes: tuple[str, ...]) -> Path:
    for d, domain in enumerate(domains):
        for c, name in enumerate(classes):
            for i in range(10):
                write_image(folder / domain / name / f"{i:03}.jpg", 1000 * d + 100 * c + i)
    return folder


def pacs(root: Path) -> Path:
    return _domains(root / "PACS", PACS_DOMAINS, ("dog", "elephant"))


def vlcs(root: Path) -> Path:
    return _domains(root / "VLCS", ("Caltech101", "LabelMe", "SUN09", "VOC2007"), ("bird", "car"))


def vlcs_with_folds(root: Path) -> Path:
    """The copy with train/, crossval/, test/ and, repeating them all, full/ in each domain."""
    folder = root / "VLCS"
    for d, domain in enumerate(("CALTECH", "LABELME", "PASCAL", "SUN")):
        for c in range(2):
            for f, fold in enumerate(("train", "train", "crossval", "test")):
                seed = 1000 * d + 100 * c + f
                write_image(folder / domain / fold / str(c) / f"{f}.jpg", seed)
                write_image(folder / domain / "full" / str(c) / f"{f}.jpg", seed)
    return folder


def flowers102(root: Path) -> Path:
    """Twelve flowers of three classes; of each class one image is train, one valid, two test."""
    folder = root / "flowers-102"
    for number in range(1, 13):
        write_image(folder / f"jpg/image_{number:05}.jpg", number)
    numbers = np.arange(1, 13, dtype=np.uint16)
    savemat(folder / "imagelabels.mat", {"labels": ((numbers - 1) % 3 + 1).astype(np.uint8)})
    splits = {"trnid": numbers[:3], "valid": numbers[3:6], "tstid": numbers[6:][::-1]}
    savemat(folder / "setid.mat", splits)
    return folder


def dtd(root: Path) -> Path:
    folder = root / "dtd"
    (folder / "labels").mkdir(parents=True)
    for s, split in enumerate(("train", "val", "test")):
        names = [f"{c}/{c}_{s:04}.jpg" for c in ("banded", "blotchy")]
        (folder / f"labels/{split}1.txt").write_text("".join(f"{name}\n" for name in names))
        for i, name in enumerate(names):
            write_image(folder / "images" / name, 10 * s + i)
    (folder / "labels/train2.txt").write_text("banded/banded_0002.jpg\n")
    return folder


def aircraft(root: Path) -> Path:
    folder = root / "fgvc-aircraft-2013b"
    variants = ("707-320", "Falcon 2000", "F/A-18")
    (folder / "data").mkdir(parents=True)
    (folder / "data/variants.txt").write_text("".join(f"{variant}\n" for variant in variants))
    for s, split in enumerate(("train", "val", "test")):
        lines = []
        for v, variant in enumerate(variants):
            number = f"{s}{v:06}"
            write_image(folder / f"data/images/{number}.jpg", 10 * s + v, height=60, width=40)
            lines.append(f"{number} {variant}\n")
        (folder / f"data/images_variant_{split}.txt").write_text("".join(lines))
    return folder


WRITERS: dict[str, Writer] = {
    "cifar10": cifar10,
    "tiny_imagenet": tiny_imagenet,
    "pacs": pacs,
    "vlcs": vlcs,
    "flowers102": flowers102,
    "dtd": dtd,
    "aircraft": aircraft,
}


def read(name: str, root: Path, **options: object) -> Source:
    """Return a source of images, by its name in params.yaml, over a folder."""
    params = {"source": name, "path": str(root), "image_size": 16} | options
    return SOURCES[name](Prepare.model_validate(params))


def images_in(source: Source, *splits: str) -> list[tuple[bytes, int]]:
    """Return the pixels of every image, at their own size, and its label."""
    parts = [source.splits[split] for split in splits]
    return [
        (part.read(np.array([row]))[0].tobytes(), label)
        for part in parts
        for row, label in enumerate(part.labels.tolist())
    ]


def accept_sums(patch: pytest.MonkeyPatch, root: Path) -> None:
    """Make torchvision take the md5 sums of these files, if it knows any, for the published."""
    from torchvision.datasets import CIFAR10, Flowers102

    def md5(name: str) -> str:
        return hashlib.md5((root / name).read_bytes()).hexdigest()

    if (root / "batches.meta").exists():
        for batches in ("train_list", "test_list"):
            names = [name for name, _ in getattr(CIFAR10, batches)]
            patch.setattr(CIFAR10, batches, [[name, md5(name)] for name in names])
        patch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5("batches.meta")})
    if (root / "setid.mat").exists():
        files = {"label": "imagelabels.mat", "setid": "setid.mat"}
        sums = {key: (name, md5(name)) for key, name in files.items()}
        patch.setattr(Flowers102, "_file_dict", sums)
        patch.setattr(Flowers102, "classes", Flowers102.classes[:3])
