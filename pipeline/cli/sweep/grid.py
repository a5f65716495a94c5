"""Grids of settings as they are typed, ``lambda=0,1,5 seed=0,1,2``, and a name for each point.

A key is that of a variant's section by its path (``train.penalty.lambda``) or the last part of one,
where only one ends so (``lambda``); ``model`` and ``strategy`` are the names of these.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from models.errors import ParamsError, near_matches
from pipeline.core.artifacts import digest
from pipeline.core.params import Variant

Settings = dict[str, Any]  # path of a key: its value

OPTIONS = "model.options"  # holds keys that only the network knows
# The order in a name; what is not listed comes between, by the alphabet.
FIRST = ("model.name", OPTIONS, "train.strategy.name", "train.penalty.estimator")
LAST = ("train.penalty.lambda", "train.epochs", "train.seed")


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """Return ``{path: values}`` of words such as ``lambda=0,1,5``, in the order of names.

    Raises:
        ParamsError: a word is not ``key=value,…``, its key is unknown, or it comes twice.
    """
    axes: dict[str, list[Any]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not equals or not values:
            raise ParamsError(f"{word!r} is no axis of a grid; write key=value,value: lambda=0,1,5")
        path = full_path(key)
        if path in axes:
            raise ParamsError(f"{path} comes twice; give all its values at once: {key}=…,…")
        axes[path] = _values(word, values)
    return {path: axes[path] for path in sorted(axes, key=_place)}


def points(axes: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Return every combination of the values of all axes."""
    return [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()) if axes
    ]


def full_path(key: str) -> str:
    """Return the path of a key that is given by its path or its short name.

    Raises:
        ParamsError: there is none, or several end so.
    """
    paths = known_paths()
    if key in paths or key.startswith(f"{OPTIONS}."):
        return key
    short = short_names(paths)
    found = short.get(key, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise ParamsError(f"{key!r} may be {' or '.join(found)}; write which")
    raise ParamsError(
        f"a variant has no key {key!r}; it has those of model, train, method and plan in "
        f"params.yaml, e.g. train.epochs{near_matches(key, [*short, *paths])}"
    )


def known_paths() -> list[str]:
    """Return the paths of all keys that a variant may set."""
    return list(_paths(Variant))


def _paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        path, kind = f"{prefix}{field.alias or name}", field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _paths(kind, f"{path}.")
        else:
            yield path


def short_names(paths: Sequence[str]) -> dict[str, list[str]]:
    """Return ``{last part: paths that end so}``; a section's `name` is named as the section."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(_short(path), []).append(path)
    return found


def _short(path: str) -> str:
    return path.removesuffix(".name").rpartition(".")[2]


def nested(settings: Settings) -> dict[str, Any]:
    """Return ``{"a.b": 1}`` as ``{"a": {"b": 1}}``, as params.yaml has it."""
    result: dict[str, Any] = {}
    for path, value in settings.items():
        *sections, key = path.split(".")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return result


def variant_name(settings: Settings) -> str:
    """Return a name that shows the settings, e.g. ``anneal-lambda0_5-seed1``; always the same.

    Where it cannot show a value in full, which holds other characters than a name may, a hash of
    the settings makes it unique.
    """
    parts = [_part(path, settings[path]) for path in sorted(settings, key=_place)]
    name = "-".join(text for text, _ in parts)
    exact = all(is_exact for _, is_exact in parts)
    if exact:
        return name
    return f"{name}-{digest({path: _plain(value) for path, value in settings.items()})[:6]}"


def _part(path: str, value: Any) -> tuple[str, bool]:
    """Return what a name shows of one setting, and whether that is all of it."""
    key = _short(path)
    if isinstance(value, bool) or value is None:
        return f"{key}_{json.dumps(value)}", True
    if isinstance(value, int | float):
        return key + repr(_plain(value)).replace(".", "_").replace("+", ""), True
    text = re.sub(r"\W+", "_", str(value), flags=re.ASCII).strip("_")
    return (text if text[:1].isalpha() else f"{key}_{text}"), text == value


def _plain(value: Any) -> Any:
    """Return 1.0 as 1: they are the same setting."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return int(value) if whole else value


def _place(path: str) -> tuple[int, str]:
    if path in FIRST:
        return FIRST.index(path) - len(FIRST), ""
    return (LAST.index(path) + 1, "") if path in LAST else (0, path)


def _values(word: str, text: str) -> list[Any]:
    """Read values as YAML 1.2 does, where 1e-3 is a number and `no` is none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values: list[Any] = YAML(typ="safe", pure=True).load(f"[{text}]")
        json.dumps(values, sort_keys=True)  # dates, for example, are no values of params.yaml
    except (YAMLError, TypeError) as e:
        raise ParamsError(
            f"{word!r}: {text!r} is no list of values; write numbers, words or YAML in braces"
        ) from e
    return values
