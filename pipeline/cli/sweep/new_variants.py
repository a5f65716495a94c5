"""Add variants to params.yaml: by name, with their settings, each written once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.errors import ParamsError
from pipeline.cli.sweep.grid import Settings, nested, variant_name
from pipeline.core.artifacts import CACHE, locked, replace_file
from pipeline.core.params import PARAMS, load_params, validate


@dataclass(frozen=True)
class Addition:
    """What becomes of params.yaml: what to add, by variant, and the names already there."""

    new: Mapping[str, Settings]
    present: Sequence[str]

    @property
    def lines(self) -> list[str]:
        """Return a line of YAML per new variant."""
        return [f"{name}: {_one_line(settings)}" for name, settings in self.new.items()]


def _one_line(settings: Settings) -> str:
    return yaml.safe_dump(nested(settings), default_flow_style=True, width=math.inf).strip()


def named(points: Sequence[Settings]) -> dict[str, Settings]:
    """Return the points of a grid under the names of their variants."""
    return {variant_name(settings): settings for settings in points}


def add_variants(
    wanted: Mapping[str, Settings], *, dry_run: bool = False, path: Path = PARAMS
) -> Addition:
    """Write the variants that the file at `path` lacks; all are valid, or nothing is written.

    Raises:
        ParamsError: the result is not valid, or a variant is there with other settings.
    """
    with locked(CACHE / path.name):
        before = load_params(path).variants
        text = path.read_text(encoding="utf-8")
        present = {name: settings for name, settings in wanted.items() if name in before}
        _require_same(present, text, path)
        new = {name: settings for name, settings in wanted.items() if name not in before}
        addition = Addition(new, list(present))
        longer = _inserted(addition.lines, text)
        if not wanted.keys() <= validate(yaml.safe_load(longer), path).variants.keys():
            raise ParamsError(f"{path}: the last variant is an alias; write it out")
        if new and not dry_run:
            with replace_file(path) as temporary:
                temporary.write_text(longer, encoding="utf-8")
    return addition


def _require_same(present: Mapping[str, Settings], text: str, path: Path) -> None:
    """Refuse names that mean something else in the file: what they were run with would be lost."""
    document = yaml.safe_load(text)
    again = {name: nested(settings) for name, settings in present.items()}
    asked = validate(document | {"variants": {**document["variants"], **again}}, path).variants
    own = validate(document, path).variants
    for name in present:
        if own[name] != asked[name]:
            raise ParamsError(
                f"{path}: variant {name!r} is there with other settings; rename or remove it, or "
                "sweep without a grid to run what is there"
            )


def _inserted(lines: Sequence[str], text: str) -> str:
    """Return params.yaml with these lines after the last variant; all else stays as it is."""
    document: Any = yaml.compose(text)
    variants = next(value for key, value in document.value if key.value == "variants")
    if variants.flow_style:
        end = variants.end_mark.index - 1  # the brace
        return text[:end] + "".join(f", {line}" for line in lines) + text[end:]
    text = text.removesuffix("\n") + "\n"
    end = text.index("\n", _last(variants).end_mark.index) + 1
    indent = " " * variants.start_mark.column
    return text[:end] + "".join(f"{indent}{line}\n" for line in lines) + text[end:]


def _last(node: Any) -> Any:
    """Return the last node that is written in one piece: a block ends after the comments below."""
    while not isinstance(node, yaml.ScalarNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    return node
