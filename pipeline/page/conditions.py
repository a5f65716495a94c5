"""On what the numbers rest: the images, the machine, the protocol of the timing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]
Facts = dict[str, str]  # term: what it is


@dataclass(frozen=True)
class Conditions:
    """How variants were timed, and which: those of one machine and one protocol."""

    variants: list[str]
    machine: Facts
    protocol: Facts


def data_facts(manifest: Metrics) -> Facts:
    """Return what the images are, from the metrics of `prepare`."""
    counts = {split: sum(by_class.values()) for split, by_class in manifest["counts"].items()}
    size, channels = manifest["image_size"], manifest["channels"]
    return {
        "source": manifest["source"],
        "images": ", ".join(f"{count:,} {split}" for split, count in counts.items()),
        "size": f"{size} × {size}, {channels} channel{'s' if channels > 1 else ''}",
        f"{len(manifest['classes'])} classes": ", ".join(manifest["classes"]),
    }


def conditions(metrics: Mapping[str, Mapping[str, Metrics]]) -> list[Conditions]:
    """Return each machine with each protocol once, with the variants that were timed so."""
    found: list[Conditions] = []
    for variant, own in metrics.items():
        target, protocol = own["benchmark"]["target"], own["benchmark"]["protocol"]
        here = Conditions([variant], _machine(target), _facts(protocol))
        for known in found:
            if (known.machine, known.protocol) == (here.machine, here.protocol):
                known.variants.append(variant)
                break
        else:
            found.append(here)
    return found


def _machine(target: Metrics) -> Facts:
    devices = ", ".join(device["name"] for device in target["devices"])
    return _facts(target) | {"devices": devices or "no GPU"}


def _facts(content: Metrics) -> Facts:
    return {name.replace("_", " "): _said(value) for name, value in content.items()}


def _said(value: Any) -> str:
    """Write a value of JSON without its brackets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_said(own)}" for name, own in value.items())
    if isinstance(value, list):
        return ", ".join(_said(own) for own in value)
    words = {None: "–", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
