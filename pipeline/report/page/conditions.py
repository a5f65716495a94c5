"""On what the numbers rest: the images, the machine, the protocol of the timing."""

from collections.abc import Mapping
from typing import Any

from pipeline.benchmark.records import BenchmarkMetrics
from pipeline.data.records import Prepared

Facts = dict[str, str]  # term: what it is


def data_facts(data: Prepared) -> Facts:
    """Return what the images are."""
    size, channels = data.image_size, data.channels
    return {
        "source": data.source,
        "images": ", ".join(f"{count:,} {split}" for split, count in data.images.items()),
        "size": f"{size} × {size}, {channels} channel{'s' if channels > 1 else ''}",
        f"{len(data.classes)} classes": ", ".join(data.classes),
    }


def machine_facts(run: BenchmarkMetrics) -> Facts:
    """Return what the run was timed on."""
    devices = ", ".join(device["name"] for device in run.target["devices"])
    return facts(run.target) | {"devices": devices or "no GPU"}


def facts(content: Mapping[str, Any]) -> Facts:
    """Return the values of JSON by their keys in words."""
    return {name.replace("_", " "): _text(value) for name, value in content.items()}


def _text(value: Any) -> str:
    """Write a value of JSON without its brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_text(own)}" for name, own in value.items())
    if isinstance(value, list):
        return ", ".join(_text(own) for own in value)
    words = {None: "–", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
