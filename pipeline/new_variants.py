"""Add variants to params.yaml: by name, with their settings, each written once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ParamsError
from pipeline.artifacts import CACHE, locked
from pipeline.grid import Settings, nested, variant_name
from pipeline.params import PARAMS, validate
from pipeline.params_file import check, read_editable, write_valid


@dataclass(frozen=True)
class Addition:
    """What becomes of params.yaml: the lines to add, by variant, and the names already there."""

    new: Mapping[str, Settings]
    present: Sequence[str]


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
        document = read_editable(path)
        before = check(document, path).variants
        new = {name: settings for name, settings in wanted.items() if name not in before}
        _require_same(wanted, document, path)
        if new:
            _append(document["variants"], new)
            check(document, path) if dry_run else write_valid(document, path)
    return Addition(new, [name for name in wanted if name in before])


def _require_same(wanted: Mapping[str, Settings], document: dict[str, Any], path: Path) -> None:
    """Refuse names that mean something else in the file: what they were run with would be lost."""
    there = document["variants"]
    present = {name: nested(settings) for name, settings in wanted.items() if name in there}
    own, asked = (
        validate(document | {"variants": {**there, **changed}}, path).variants
        for changed in ({}, present)
    )
    for name in present:
        if own[name] != asked[name]:
            raise ParamsError(
                f"{path}: variant {name!r} is there with other settings; rename or remove it, or "
                "sweep without a grid to run what is there"
            )


def _append(variants: dict[str, Any], new: Mapping[str, Settings]) -> None:
    """Put variants at the end of the map, a line each, before the comment of what follows it."""
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    below = _take_comment_below(variants)
    for name, settings in new.items():
        variants[name] = _one_line(nested(settings))
    if below:
        token = CommentToken(f"\n{below}", CommentMark(0), None)
        end: Any = variants
        end.ca.items[list(new)[-1]] = [None, None, token, None]


def _take_comment_below(variants: Any) -> str:
    """Take away the lines of comment that follow the last variant; they are kept with its end."""
    from ruamel.yaml.tokens import CommentToken

    node, tokens = variants, []
    while node and hasattr(node, "ca"):
        last = next(reversed(node)) if isinstance(node, dict) else len(node) - 1
        kept = node.ca.items.get(last) or []
        tokens += [token for token in kept if isinstance(token, CommentToken)]
        node = node[last]
    for token in tokens:
        own, newline, below = token.value.partition("\n")
        if below:
            token.value = own + newline
            return str(below)
    return ""


def _one_line(value: Any) -> Any:
    """Return maps as ruamel.yaml writes them in braces."""
    from ruamel.yaml.comments import CommentedMap

    if not isinstance(value, dict):
        return value
    result = CommentedMap((key, _one_line(own)) for key, own in value.items())
    result.fa.set_flow_style()
    return result
