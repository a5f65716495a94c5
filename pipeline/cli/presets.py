"""Presets: parts of params.yaml, each in a file of params/, that are laid over it.

A preset holds keys of params.yaml and, beside them, `note` (a line for the user) and `with`: what
to lay over in addition where the preset of that name is chosen too. Comments and order of
params.yaml stay.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import ParamsError, near_matches
from pipeline.cli.params_editor import read_editable, write_valid
from pipeline.core.params import PARAMS

PRESETS = Path("params")


def apply_presets(
    names: Sequence[str], *, data: str | None = None, path: Path = PARAMS, presets: Path = PRESETS
) -> list[str]:
    """Lay presets over the file at `path`; return what the user should know about them.

    Args:
        names: files of `presets`, without their suffix; a later one is laid over an earlier one.
        data: the folder of the images, as `prepare.path`. Without it the path stays, unless the
            source is another now: what it names is no longer meant.
        path: params.yaml; it is replaced only if the result is valid.
        presets: the folder of presets.

    Raises:
        ParamsError: no preset of that name, one that is not valid, or params.yaml is not, before or
            with the presets.
    """
    overlay, notes = combined(names, presets)
    document = read_editable(path)
    before = _source(document)
    _lay_over(document, overlay)
    if data is not None or _source(document) != before:
        _lay_over(document, {"prepare": {"path": data}})
    write_valid(document, path)
    return notes


def combined(names: Sequence[str], presets: Path = PRESETS) -> tuple[dict[str, Any], list[str]]:
    """Return the presets laid over each other, then what each has `with` the others; and notes.

    Raises:
        ParamsError: no preset of that name, or one that is not valid.
    """
    known = sorted(path.stem for path in presets.glob("*.yaml"))
    for name in names:
        if name not in known:
            raise ParamsError(
                f"no preset {name!r} in {presets}/{near_matches(name, known)}; there are "
                f"{', '.join(known) or 'none'}"
            )
    files = {name: read_editable(presets / f"{name}.yaml") for name in names}
    result: dict[str, Any] = {}
    notes: list[str] = []
    pairs = {name: file.pop("with", {}) for name, file in files.items()}
    for name, file in files.items():
        chosen = [pairs[name][other] for other in names if other in pairs[name]]
        note = next((pair.pop("note") for pair in chosen if "note" in pair), file.get("note"))
        notes += [note] if note else []
        file.pop("note", None)
        _lay_over(result, file)
        pairs[name] = chosen
    for chosen in pairs.values():
        for pair in chosen:
            _lay_over(result, pair)
    return result, notes


def _source(document: dict[str, Any]) -> Any:
    section = document.get("prepare")
    return section.get("source") if isinstance(section, dict) else None


def _lay_over(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    """Change `base` in place, key by key. As for variants, `options` and lists go whole."""
    for key, value in overlay.items():
        own = base.get(key)
        if isinstance(value, dict) and isinstance(own, dict) and key != "options":
            _lay_over(own, value)
        else:
            base[key] = value
