"""Metrics files as typed records: one dataclass per file, declared in the chapter that writes it.

Where something has many measurements, the file holds a list of flat records, a line of a table
each, with the keys (level, precision, backend, batch) as fields beside the numbers.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from models.errors import ArtifactError
from pipeline.core.artifacts import read_json, write_json

Record = TypeVar("Record")
ADAPTERS: dict[Any, TypeAdapter[Any]] = {}  # one takes longer to make than a file to read


def write_record(path: Path, record: Any) -> None:
    """Write a dataclass as JSON, atomically, every field of it."""
    write_json(path, dataclasses.asdict(record))


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a metrics file as the dataclass `kind`.

    Raises:
        ArtifactError: it is missing, damaged, or of another version of Shoal.
    """
    document = json.dumps(read_json(path))
    if kind not in ADAPTERS:
        ADAPTERS[kind] = TypeAdapter(kind)
    try:
        # Strict: a number is no text and no truth value. Out of JSON alone that holds dataclasses.
        record: Record = ADAPTERS[kind].validate_json(document, strict=True)
        return record
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path} is not what this version of Shoal writes ({where}: {first['msg']}); "
            "`dvc repro` makes it anew"
        ) from e
