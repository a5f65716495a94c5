"""Real images for the tests: Fashion-MNIST, fetched by the code under test, and tiny folders."""

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings
from jaxtyping import install_import_hook
from PIL import Image
from places import FIXED, ROOT
from stage_process import run_stage
from stage_server import StageServer

pytest.register_assert_rewrite("undisturbed")  # what it asserts is shown as what tests assert
from undisturbed import Undisturbed, undisturbed  # noqa: E402

# The shapes in signatures are checked while the tests run; before the modules are imported.
SHAPED = (
    "models.evaluation",
    "pipeline.bundle.golden",
    "pipeline.core.distributed",
    "pipeline.data.dataset",
    "pipeline.distances.ascent",
    "pipeline.distances.coupling",
    "pipeline.distances.estimators",
    "pipeline.distances.features",
    "pipeline.distances.memory_order",
    "pipeline.distances.projections",
    "pipeline.distances.sliced",
    "pipeline.export.parity",
    "pipeline.train.augment",
    "pipeline.train.penalty",
)
install_import_hook(list(SHAPED), "beartype.beartype")

from tracked import compared, track, write_project  # noqa: E402

from pipeline.core.params import Prepare  # noqa: E402
from pipeline.data.prepare import prepare  # noqa: E402
from pipeline.data.published.fashion_mnist import DOWNLOADS, fetch  # noqa: E402
from pipeline.report.tracking.client import SETTINGS  # noqa: E402
from pipeline.report.tracking.experiment_page import present  # noqa: E402
from pipeline.report.tracking.mirror import mirror  # noqa: E402

# Started in the background or by nohup, the tests, and what they start, would not hear of these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ.update(SETTINGS)  # read by MLflow when it is imported, as some tests do at once

# How long an example takes is no claim; in CI the same examples come every time.
settings.register_profile("shoal", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("shoal")

# Started first, so that in the end no process works on one of them alone.
LONGEST = ("test_end_to_end.py", "test_collapse.py", "test_launch.py")

Tree = dict[str, dict[str, int]]  # split folder -> class folder -> number of images
Stage = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = [*LONGEST, None]
    items.sort(key=lambda item: names.index(item.path.name if item.path.name in names else None))


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The folder with the four *-ubyte.gz files; it outlives the tests."""
    downloads = ROOT / DOWNLOADS
    downloads.mkdir(parents=True, exist_ok=True)
    with (downloads / ".tests.lock").open("w") as lock:  # several processes run tests
        fcntl.flock(lock, fcntl.LOCK_EX)
        fetch(downloads)
    return downloads


@pytest.fixture(scope="session")
def prepared(fashion_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `prepare` writes it: 500 images of Fashion-MNIST per split, 1×32×32."""
    folder = tmp_path_factory.mktemp("prepared")
    params = Prepare(source="fashion_mnist", path=str(fashion_mnist), image_size=32, limit=500)
    prepare(params, folder)
    return folder


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[[Tree], Path]:
    """A function that writes small grey images, all different, and returns the folder of them."""

    def write(tree: Tree) -> Path:
        rng = np.random.default_rng(0)
        root = tmp_path / "images"
        for split, classes in tree.items():
            for name, count in classes.items():
                folder = root / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (9, 12), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i:03}.png")
        return root

    return write


@pytest.fixture
def run_prepare_stage(tmp_path: Path) -> Stage:
    """A function that runs the stage in `tmp_path`, on params.yaml with another `prepare`."""

    def run(**section: object) -> subprocess.CompletedProcess[str]:
        params = yaml.safe_load(FIXED.read_text())
        params["prepare"] = {"image_size": 16, **section}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        return run_stage("prepare", cwd=tmp_path)

    return run


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once because that takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        mirror("other", [])
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StageServer]:
    """What stages are started from, in a second each."""
    with StageServer(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="session")
def base(
    server: StageServer,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    testrun_uid: str,
) -> Undisturbed:
    """A little project after one run of every stage, shared by all processes that test."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    return undisturbed(shared / f"undisturbed-{testrun_uid}", empty_store, server)


@pytest.fixture
def reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as it is after `dvc repro` of two variants with three levels, without a store."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    write_project()
    return tmp_path


@pytest.fixture
def project(reported: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder with a store, which is empty."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{reported}/mlflow.db")
    shutil.copy(empty_store, reported)
    return reported


@pytest.fixture(scope="session")
def mirrored_once(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder behind `mirrored`, made once."""
    folder = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        write_project()
        shutil.copy(empty_store, folder)
        track()
        present("shoal", compared())
    return folder


@pytest.fixture
def mirrored(mirrored_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder with its runs in the store, and what surrounds them: only to be read."""
    enter(mirrored_once, monkeypatch)
    return mirrored_once


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make `folder` the current one, with a store of its own."""
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are added in one order only with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
