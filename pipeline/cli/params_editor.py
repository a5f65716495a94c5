"""Change params.yaml by program: comments, order and style stay, and nothing invalid is written."""

import io
from pathlib import Path
from typing import Any

import yaml

from models.errors import ParamsError
from pipeline.core.artifacts import replace_file
from pipeline.core.params import validate


def read_editable(path: Path) -> dict[str, Any]:
    """Read keys and values, with the comments and the style in which they stand.

    Raises:
        ParamsError: the file is missing, not valid YAML, or holds no keys.
    """
    from ruamel.yaml.error import YAMLError

    try:
        content = _editor().load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ParamsError(f"{path} is missing; run from the folder that holds it") from e
    except (YAMLError, UnicodeDecodeError) as e:
        raise ParamsError(f"{path} is not valid YAML: {e}") from e
    if not isinstance(content, dict):
        raise ParamsError(f"{path} must hold keys and values, got {type(content).__name__}")
    return content


def write_valid(document: dict[str, Any], path: Path) -> None:
    """Replace the file at `path` by a document, only if the result is valid.

    Raises:
        ParamsError: it is not.
    """
    text = io.StringIO()
    _editor().dump(document, text)
    validate(yaml.safe_load(text.getvalue()), path)
    with replace_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _editor() -> Any:
    """Return a YAML reader and writer that keeps comments, order, quotes and `null`."""
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096
    editor.representer.add_representer(type(None), lambda to, _: to.represent_scalar(NULL, "null"))
    editor.representer.add_representer(float, lambda to, x: to.represent_scalar(FLOAT, _float(x)))
    return editor


NULL = "tag:yaml.org,2002:null"
FLOAT = "tag:yaml.org,2002:float"


def _float(value: float) -> str:
    """Return a number as YAML 1.1 knows it, which wants a dot: 1.0e-05."""
    mantissa, e, exponent = repr(value).partition("e")
    return repr(value) if not e or "." in mantissa else f"{mantissa}.0e{exponent}"
