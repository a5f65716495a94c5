"""Fuzzed files: what is read back is taken for what stands there, or refused by one clear message.

Values that a stage wrote, or a user, are changed, and their text is damaged. `make faults` tries
more than a million inputs, `make test` some thousand; the behaviours are counted beside them: the
messages that differ in more than in numbers and quoted names.
"""

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, get_type_hints

import onnx
import pytest
import yaml
from fuzzing import ODD, ODD_YAML, changed, damaged
from places import FIXED
from pydantic import BaseModel
from undisturbed import FULL, VARIANT, Undisturbed

from edge.checks import BundleError, shown
from edge.files import checked, open_bundle
from models.errors import ArtifactError, ParamsError
from pipeline.core.params import load_params
from pipeline.core.params.loading import validate
from pipeline.core.params.messages import require_moderate
from pipeline.core.records import read_record
from pipeline.data.records import Prepared
from pipeline.export.boundaries import BLOCKS_KEY, read_boundaries
from pipeline.export.records import ExportMetrics
from pipeline.report.metrics import VariantMetrics
from pipeline.report.records import Summary

LINES, WIDTH = 60, 1000  # of a message: one line for each mistake
VALID = "valid"
PARTS = range(4) if FULL else range(1)
RECORDS = get_type_hints(VariantMetrics) | {"export": ExportMetrics}


@dataclass(frozen=True)
class Target:
    """Something that is read back: what stands in it, how it is read, and what a reader raises."""

    value: Any
    as_text: Callable[[Any], bytes]
    read: Callable[[bytes], Any]
    error: type[Exception]
    read_value: Callable[[Any], Any] | None = None  # where text would take long to read
    odd: Sequence[Any] = tuple(ODD)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def params(base: Undisturbed, folder: Path) -> Target:
    path = folder / "params.yaml"

    def read(text: bytes) -> Any:
        path.write_bytes(text)
        return load_params(path)

    def read_value(value: Any) -> Any:
        require_moderate(value, path)
        return validate(value, path)

    text = FIXED.read_bytes()
    return Target(yaml.safe_load(text), lambda _: text, read, ParamsError, read_value, ODD_YAML)


def boundaries(base: Undisturbed, folder: Path) -> Target:
    model = onnx.load(
        base.root / f"artifacts/export/{VARIANT}/model.onnx", load_external_data=False
    )
    (prop,) = (prop for prop in model.metadata_props if prop.key == BLOCKS_KEY)
    bare = onnx.ModelProto()

    def read(text: bytes) -> Any:
        del bare.metadata_props[:]
        bare.metadata_props.add(key=BLOCKS_KEY, value=text.decode(errors="replace"))
        return list(read_boundaries(bare).values())

    return Target(json.loads(prop.value), as_json, read, ArtifactError)


def manifest(base: Undisturbed, folder: Path) -> Target:
    (shipped,) = (base.root / f"artifacts/bundle/{VARIANT}").glob("*/manifest.json")
    copied = folder / "bundle"
    copied.mkdir()
    for file in ("labels.txt", "preprocessing.json"):
        (copied / file).write_bytes((shipped.parent / file).read_bytes())

    def read(text: bytes) -> None:
        (copied / "manifest.json").write_bytes(text)
        bundle = open_bundle(copied)
        for name in bundle.manifest["files"]:
            assert (copied / name).resolve().is_relative_to(copied)
        for name in ("labels.txt", "preprocessing.json"):
            if name in bundle.manifest["files"]:
                checked(bundle, name)

    return Target(json.loads(shipped.read_bytes()), as_json, read, BundleError)


def record(file: str, kind: Any) -> Callable[[Undisturbed, Path], Target]:
    def target(base: Undisturbed, folder: Path) -> Target:
        path = folder / Path(file).name

        def read(text: bytes) -> Any:
            path.write_bytes(text)
            return read_record(path, kind)

        return Target(json.loads((base.root / file).read_bytes()), as_json, read, ArtifactError)

    return target


def file_of(stage: str) -> str:
    return f"metrics/{stage}.json" if stage == "benchmark" else f"metrics/{stage}/{VARIANT}.json"


METRICS = {file_of(stage): record(file_of(stage), kind) for stage, kind in RECORDS.items()} | {
    "metrics/prepare.json": record("metrics/prepare.json", Prepared),
    "reports/summary.json": record("reports/summary.json", Summary),
}


@dataclass(frozen=True)
class Case:
    """What is fuzzed, and by how many inputs in `make faults`; by a thousandth in `make test`."""

    fault: str
    name: str
    target: Callable[[Undisturbed, Path], Target]
    inputs: int


CASES = [
    Case("fuzzed params.yaml", "params.yaml", params, 60_000),
    Case("fuzzed `shoal.blocks` of an ONNX file", "shoal.blocks", boundaries, 260_000),
    Case("fuzzed manifest of a bundle", "manifest.json", manifest, 140_000),
    *(Case("fuzzed metrics", name, target, 46_000) for name, target in METRICS.items()),
]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: files are written a million times."""
    fast = Path("/dev/shm")
    place = fast if os.access(fast, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.fault(case.fault), id=case.name) for case in CASES],
)
def test_a_fuzzed_input_is_taken_as_it_stands_or_refused_by_one_message(
    case: Case, part: int, base: Undisturbed, memory: Path, record_property: Any
) -> None:
    target, tries = case.target(base, memory), case.inputs // (len(PARTS) if FULL else 1000)
    seen = set()
    for number in range(tries):
        seen |= behaviour(target, Random(f"{case.name} {part} {number}"))
    record_property("faults", tries)
    record_property("behaviours", [f"{case.name} {behaviour}" for behaviour in seen])
    assert VALID in seen
    assert len(seen) > 1


def behaviour(target: Target, rng: Random) -> set[str]:
    """Read one input; return what came of it, without the numbers and names that it speaks of."""
    value = target.value
    for _ in range(rng.randint(1, 3)):
        value = changed(value, rng, target.odd)
    try:
        if rng.random() < (0.05 if target.read_value else 0.2):
            found, stands = target.read(damaged(target.as_text(value), rng)), None
        elif target.read_value:
            found, stands = target.read_value(value), None
        else:
            found, stands = target.read(target.as_text(value)), value
    except target.error as e:
        require_readable(str(e))
        return {normalised(line) for line in str(e).splitlines()}
    require_finite(found)
    if stands is not None and found is not None:
        require_equal(found, stands)
    return {VALID}


def require_readable(message: str) -> None:
    lines = message.splitlines()
    assert 0 < len(lines) <= LINES, lines[:3]
    assert max(map(len, lines)) <= WIDTH, lines
    assert all(line == shown(line) for line in lines), lines


def normalised(message: str) -> str:
    without_paths = re.sub(r"/\S*/", "", message)
    without_names = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", without_paths)
    without_variants = re.sub(r"variants\.[^.]+\.", "variants.….", without_names)
    return re.sub(r"-?\d[\d.e+]*", "#", without_variants)


def require_finite(value: Any) -> None:
    """Nothing valid holds what no stage writes: a number that is none, or is infinite."""
    if isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, list | tuple):
        for item in value:
            require_finite(item)
    else:
        for _, item in fields(value):
            require_finite(item)


def require_equal(read: Any, stands: Any) -> None:
    """What was read is what stands there: nothing was taken for something else."""
    if isinstance(read, list | tuple):
        assert isinstance(stands, list), (read, stands)
        assert len(read) == len(stands)
        for one, other in zip(read, stands, strict=True):
            require_equal(one, other)
    elif named := fields(read):
        assert isinstance(stands, dict), (read, stands)
        for key, item in named:
            if key in stands:  # else it has a default
                require_equal(item, stands[key])
    elif not isinstance(read, dict):
        assert read == (float(stands) if isinstance(read, float) else stands)
        assert isinstance(read, bool) == isinstance(stands, bool), (read, stands)


def fields(value: Any) -> list[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return list(value.items())
    return list(value) if isinstance(value, BaseModel) else []
