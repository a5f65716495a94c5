"""The same build never runs twice, another never hits, and damage is noticed."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from models.errors import ArtifactError, BackendError
from pipeline.core import artifacts
from pipeline.core.artifacts import locked, sole_writer
from pipeline.core.params import Batch, Build
from pipeline.engines.backends.cache import OUTSIDE, CachedEngine, Key, cached, key_of
from pipeline.engines.backends.interface import Job
from pipeline.engines.backends.registry import BACKENDS

OPTIONS = Build(
    backends=["onnxruntime"], compute_capabilities=["8.6"], batch=Batch(min=1, opt=2, max=4)
)
KEY = Key("sha", "fp32", "onnxruntime", "1.0", {"cpu": "x"}, {"batch": 1}, "code")

# One other value of every option: a new option needs a row here.
OTHER_OPTIONS = {
    "backends": ["openvino"],
    "compute_capabilities": ["8.9"],
    "batch": Batch(min=1, opt=2, max=5),
    "hardware_compatibility": "ampere_plus",
    "version_compatible": True,
    "cache_gb": 1.0,
}

texts = st.text(max_size=3)
values = st.one_of(st.none(), st.booleans(), st.integers(0, 3), texts, st.lists(texts, max_size=2))
mappings = st.dictionaries(texts, values, max_size=2)
keys = st.builds(Key, texts, texts, texts, texts, mappings, mappings, texts)


@given(keys, st.sampled_from([field.name for field in fields(Key)]))
def test_no_field_is_left_out_of_the_digest(key: Key, name: str) -> None:
    value = getattr(key, name)
    other = {**value, "and": "more"} if isinstance(value, dict) else f"{value}, and more"
    assert replace(key, **{name: other}).digest() != key.digest()


def test_text_never_slips_from_one_field_into_the_next() -> None:
    assert replace(KEY, precision="fp3", backend="2x").digest() != (
        replace(KEY, precision="fp32", backend="x").digest()
    )


@pytest.mark.parametrize("option", Build.model_fields)
def test_every_option_that_can_change_an_engine_is_in_the_key(option: str, graph: Path) -> None:
    changed = OPTIONS.model_copy(update={option: OTHER_OPTIONS[option]})
    assert changed != OPTIONS
    same = key(graph, changed) == key(graph, OPTIONS)
    assert same == (option in OUTSIDE)


def test_another_graph_of_the_same_name_has_another_key(graph: Path) -> None:
    before = key(graph, OPTIONS)
    graph.write_bytes(b"other weights")
    assert key(graph, OPTIONS).digest() != before.digest()


def test_where_a_graph_lies_is_not_in_the_key(graph: Path) -> None:
    moved = shutil.copy(graph, graph.with_name("moved.onnx"))
    assert key(Path(moved), OPTIONS) == key(graph, OPTIONS)


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"absent\.onnx is missing"):
        key(tmp_path / "absent.onnx", OPTIONS)


def key(source: Path, options: Build) -> Key:
    job = Job(source, Path("engine"), "fp32", options)
    return key_of("onnxruntime", BACKENDS["onnxruntime"], job)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"weights")
    return path


class Builder:
    """Builds engines in a folder and counts them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache, self.built = folder, folder / "cache", 0

    def __call__(self, key: Key = KEY, name: str = "engine", size: int = 1000) -> CachedEngine:
        job = Job(Path("graph"), self.folder / name, "fp32", OPTIONS)
        return cached(key, job, self.build(job, size), self.cache)

    def build(self, job: Job, size: int) -> Callable[[], CachedEngine]:
        def run() -> CachedEngine:
            time.sleep(0.05)
            self.built += 1
            job.target.write_bytes(bytes([self.built]) * size)
            return CachedEngine({"seconds": self.built}, f"log {self.built}")

        return run

    def entries(self) -> Iterator[Path]:
        return (path for path in self.cache.iterdir() if path.is_dir())


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def test_the_same_engine_is_built_once(builder: Builder, tmp_path: Path) -> None:
    first, second = builder(name="first"), builder(name="second")
    assert (first, builder.built) == (second, 1)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_another_engine_is_built(builder: Builder) -> None:
    builder()
    assert builder(replace(KEY, precision="fp16")).facts == {"seconds": 2}


def test_what_fails_is_not_kept(builder: Builder, tmp_path: Path) -> None:
    def fail() -> CachedEngine:
        raise BackendError("no")

    job = Job(Path("graph"), tmp_path / "engine", "fp32", OPTIONS)
    with pytest.raises(BackendError, match="no"):
        cached(KEY, job, fail, builder.cache)
    assert builder().facts == {"seconds": 1}


@pytest.mark.parametrize("file", ["engine", "record.json"])
@pytest.mark.parametrize("damage", [bytes.upper, lambda _: b"", None])
def test_a_damaged_entry_is_built_again_with_a_warning(
    file: str, damage: Callable | None, builder: Builder, capsys: pytest.CaptureFixture
) -> None:
    builder()
    [entry] = builder.entries()
    if damage is None:
        (entry / file).unlink()
    else:
        (entry / file).write_bytes(damage((entry / file).read_bytes()) + b"!")
    again = builder()
    assert again.facts == {"seconds": 2}
    damaged = (file, damage) != ("record.json", None)  # without a record there is no entry
    assert ("is damaged; the engine is built again" in capsys.readouterr().err) == damaged
    assert builder() == again, "the new entry is whole"


def test_an_entry_under_another_key_is_built_again(builder: Builder) -> None:
    other = replace(KEY, precision="int8")
    builder()
    shutil.move(builder.cache / KEY.digest(), builder.cache / other.digest())
    assert builder(other).facts == {"seconds": 2}


def test_what_an_engine_shows_counts_and_not_its_record(builder: Builder) -> None:
    builder()
    job = Job(Path("graph"), builder.folder / "engine", "fp32", OPTIONS)
    build = builder.build(job, 1000)

    def refused(_: CachedEngine) -> CachedEngine:
        raise BackendError("its weights are float32")

    def shown(found: CachedEngine) -> CachedEngine:
        return replace(found, facts={"weights": "int8"})

    assert cached(KEY, job, build, builder.cache, shown).facts == {"weights": "int8"}
    assert cached(KEY, job, build, builder.cache, refused).facts == {"seconds": 2}


def test_a_wait_for_a_lock_says_after_a_second_for_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "SILENT_S", 0.1)
    (tmp_path / "hold.py").write_text(
        "import sys; from pathlib import Path; from pipeline.core.artifacts import locked\n"
        "with locked(Path('ab')): print('held', flush=True); sys.stdin.read()",
        encoding="utf-8",
    )
    command = [sys.executable, "hold.py"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        waiting = threading.Thread(target=lambda: locked(tmp_path / "ab").__enter__())
        waiting.start()
        waiting.join(timeout=1.0)
        told = capsys.readouterr().err
        with pytest.raises(ArtifactError, match=f"process {process.pid} .*is still writing"):
            (tmp_path / "ab.lock").rename(tmp_path / ".lock")
            sole_writer(tmp_path).__enter__()
        process.send_signal(signal.SIGCONT)
        process.stdin.close()
        waiting.join()
    assert f"waiting for process {process.pid} (python" in told
    assert f" hold.py, stopped), which holds {tmp_path}/ab.lock" in told


def test_all_who_want_an_engine_at_once_wait_for_one_build(builder: Builder) -> None:
    with ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(lambda n: builder(name=f"engine {n}"), range(4)))
    assert builder.built == 1
    assert all(engine == engines[0] for engine in engines)


def test_the_cache_forgets_what_was_used_longest_ago(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, kept, new = (replace(KEY, version=str(n)) for n in range(3))
    builder(old, size=400_000)
    builder(kept, size=400_000)
    builder(old, size=400_000)  # used again: now `kept` is the oldest
    monkeypatch.setattr("test_engine_cache.OPTIONS", OPTIONS.model_copy(update={"cache_gb": 1e-3}))
    builder(new, size=400_000)
    assert {entry.name for entry in builder.entries()} == {old.digest(), new.digest()}


def test_a_cache_of_no_size_keeps_nothing(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_engine_cache.OPTIONS", OPTIONS.model_copy(update={"cache_gb": 0.0}))
    builder()
    assert list(builder.entries()) == []
    assert (builder.folder / "engine").exists()
