"""What is wrong with params.yaml, one line per mistake: file, key, value, what is allowed."""

from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from models.errors import ParamsError, near_matches

MOST_VALUES = 100_000  # in a file, as often as aliases repeat them
DEEPEST = 50
LARGEST_BITS = 64
LONGEST = 500  # characters of a line
MOST_LINES = 20


def explain(error: ValidationError, root: type[BaseModel], path: Path) -> str:
    """Return the mistakes that a validation of `root` found in the file at `path`."""
    lines = [one_line(_line(mistake, root, path)) for mistake in _causes(error)]
    more = [f"{path}: and {len(lines) - MOST_LINES} more mistakes"] * (len(lines) > MOST_LINES)
    return "\n".join([*lines[:MOST_LINES], *more])


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters, its end cut off where it is long.

    What stands in the file stands in the text, and may be anything.
    """
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def require_moderate(raw: Any, path: Path) -> None:
    """Raise `ParamsError` where a number is huge, or aliases make a few lines endless."""
    waiting, seen = [(raw, 1)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen + len(waiting) > MOST_VALUES:
            raise ParamsError(
                f"{path} holds more than {MOST_VALUES} values, or more than {DEEPEST} within each "
                "other; an alias (*name) may contain itself or be repeated too often"
            )
        if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
            raise ParamsError(f"{path} holds a number that is larger than 64 bits can hold")
        if isinstance(value, dict):
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in value]


def _causes(error: ValidationError) -> list[ErrorDetails]:
    """Leave out what follows from another error: inherited by a variant, or a misspelt key."""
    errors = error.errors()
    places = {e["loc"] for e in errors if e["loc"]}
    misspelt = {e["loc"][:-1] for e in errors if e["type"] == "extra_forbidden"}

    def follows(e: ErrorDetails) -> bool:
        own = e["loc"][2:] if e["loc"][:1] == ("variants",) else ()
        inherited = any(own[: end + 1] in places for end in range(len(own)))
        return inherited or (e["type"] == "missing" and e["loc"][:-1] in misspelt)

    return [e for e in errors if not follows(e)]


def _line(error: ErrorDetails, root: type[BaseModel], path: Path) -> str:
    # A part in parentheses is no key but the form of a value that may have several.
    key = ".".join(part for part in map(str, error["loc"]) if not part.startswith("("))
    if error["type"] == "extra_forbidden":
        *section, last = error["loc"]
        return f"{path}: unknown key {key}{near_matches(str(last), _keys(section, root))}"
    if error["type"] == "missing":
        return f"{path}: {key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if not key:
        return f"{path}: {message}"
    hint = ""
    if isinstance(error["input"], str) and error["type"] in {"float_type", "int_type"}:
        hint = " (a number without quotes; scientific notation needs a dot: 1.0e-4)"
    shown = "" if error["type"] == "value_error" else f" = {error['input']!r}"
    return f"{path}: {key}{shown}: {message}{hint}"


def _keys(section: list[int | str], root: type[BaseModel]) -> list[str]:
    """Return the keys that a section, given by its path from the root, may have."""
    kind: Any = root
    for part in section:
        is_map = get_origin(kind) is dict
        kind = get_args(kind)[1] if is_map else _fields(kind).get(str(part), kind)
    return list(_fields(kind))


def _fields(kind: Any) -> dict[str, Any]:
    """Return {key in the file: type} of a section; nothing for a plain value.

    A value that may be a section or something else has the keys of the section.
    """
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields
        return {field.alias or name: field.annotation for name, field in fields.items()}
    return {key: found for form in get_args(kind) for key, found in _fields(form).items()}
