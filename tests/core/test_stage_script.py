"""What every stage runs in: unchanged settings and code, signals, pipes, terminals."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from places import FIXED, ROOT

from models.errors import ArtifactError, ParamsError
from pipeline.core.artifacts import replace_file, write_json
from pipeline.core.params import Prepare
from pipeline.core.stage_inputs import unchanged_inputs
from pipeline.data.prepare import prepare

STAGES = ("sources", "train", "benchmark", "report")  # all begin with stages/__init__.py
DESCRIBED = """
stages:
  train:
    foreach: ${variants}
    do:
      params: [train, "variants.${key}", prepare.fit]
      deps: [artifacts/prepare, models, requirements.lock]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIXED, "params.yaml")
    (tmp_path / "dvc.yaml").write_text(DESCRIBED, encoding="utf-8")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a.py").write_text("before", encoding="utf-8")
    return tmp_path


def edited(change: Callable[[dict], object]) -> Callable[[], None]:
    def edit() -> None:
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        change(params)
        Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    return edit


def comment() -> None:
    with Path("params.yaml").open("a", encoding="utf-8") as file:
        file.write("# a remark\n")


EDITS = [
    (edited(lambda p: p["train"].update(epochs=99)), r"params.yaml: train.epochs was edited"),
    (edited(lambda p: p["train"].update(learning_rate=1)), r"train.learning_rate"),
    (edited(lambda p: p["train"]["penalty"].clear()), r"train.penalty.lambda, .* and 1 more"),
    (edited(lambda p: p["variants"].update(dense={"train": {"epochs": 2}})), "variants.dense"),
    (edited(lambda p: p["variants"].pop("dense")), "variants.dense"),
    (edited(lambda p: p["prepare"].update(fit="crop")), "prepare.fit"),
    (lambda: Path("params.yaml").unlink(), "params.yaml: train"),
    (lambda: Path("params.yaml").write_text("{", encoding="utf-8"), "params.yaml: train"),
    (lambda: Path("models/a.py").write_text("after", encoding="utf-8"), r"models/a.py was edited"),
    (lambda: Path("models/b.py").write_text("", encoding="utf-8") and None, None),
    (lambda: os.utime("models/a.py"), None),
    (edited(lambda p: p["prepare"].update(seed=7)), None),
    (edited(lambda p: p["benchmark"].update(rounds=7)), None),
    (edited(lambda p: p["variants"].update(next={"train": {"epochs": 2}})), None),
    (comment, None),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
def test_a_stage_fails_where_what_it_lists_is_edited_while_it_runs(
    edit: Callable[[], None], message: str | None, project: Path
) -> None:
    def run() -> None:
        with unchanged_inputs("train", "dense", project):
            edit()
            with replace_file(Path("out")) as temporary:
                temporary.touch()

    if message is None:
        run()
        assert Path("out").exists()
        return
    with pytest.raises((ParamsError, ArtifactError), match=message) as caught:
        run()
    assert "while train@dense ran" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


def test_an_edit_after_the_last_output_fails_too_and_a_later_stage_is_free(project: Path) -> None:
    with pytest.raises(ParamsError, match="prepare"), unchanged_inputs("train", "dense", project):
        edited(lambda p: p["prepare"].update(fit="crop"))()
    with unchanged_inputs("train", "dense", project), replace_file(Path("out")) as temporary:
        temporary.touch()


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def trainable(tmp_path: Path, fashion_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # nothing is there
    folder = tmp_path / "artifacts/prepare"
    folder.mkdir(parents=True)
    images = Prepare(source="fashion_mnist", path=str(fashion_mnist), image_size=16, limit=50)
    write_json(tmp_path / "metrics/prepare.json", prepare(images, folder))
    params = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    params["model"]["options"] = {"width": 8}
    params["train"] |= {"epochs": 4, "batch_size": 50, "images_per_epoch": 50, "precision": "fp32"}
    params["variants"] = {"dense": {"train": {"penalty": {"lambda": 0.0}}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return tmp_path


def wait_for_checkpoint(root: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not [*root.glob(".cache/checkpoints/*/state.pt")]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_real_training_whose_settings_are_edited_fails_and_could_go_on_once_they_are_back(
    trainable: Path,
) -> None:
    path = trainable / "params.yaml"
    text = path.read_text(encoding="utf-8")
    with start("stages.train", "dense", cwd=trainable) as process:
        wait_for_checkpoint(trainable, process)
        path.write_text(text.replace("epochs: 4", "epochs: 5"), encoding="utf-8")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    *_, last = errors.splitlines()
    assert last.startswith("error: params.yaml: train.epochs was edited while train@dense ran")
    assert "Traceback" not in errors
    assert not [*trainable.glob("artifacts/train/*")]
    assert [*trainable.glob(".cache/checkpoints/*/state*.pt")]


def test_a_signal_ends_a_training_in_one_line(trainable: Path) -> None:
    with start("stages.train", "dense", cwd=trainable) as process:
        wait_for_checkpoint(trainable, process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    *warnings, last = errors.splitlines()
    assert last.startswith("stopped")
    assert all(line.startswith("warning: not tracked") for line in warnings)
    assert not [*trainable.rglob("*.tmp")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_while_a_stage_is_imported_ends_it_in_one_line(stage: str, tmp_path: Path) -> None:
    with start(f"stages.{stage}", cwd=tmp_path, PYTHONVERBOSE="") as process:
        status = Path(f"/proc/{process.pid}/status")
        while int(caught(status), 16) & 1 << (signal.SIGTERM - 1) == 0:  # it has no handler yet
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "stopped by SIGTERM\n")


def caught(status: Path) -> str:
    fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
    return fields["SigCgt"]


SCRIPT = "from pipeline.core.stage_script import run_stage\ndef main():\n    {}\nrun_stage(main)"


def run_script(line: str, tmp_path: Path, pipe: str = "", **environment: str):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(line), encoding="utf-8")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -W error {script} {pipe}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("pipe", ["| head -1", "2>&1 | head -1"])
def test_a_reader_that_goes_away_is_no_error_of_a_stage(
    flush: bool, pipe: str, tmp_path: Path
) -> None:
    ended = run_script(f"for n in range(99999): print(n, flush={flush})", tmp_path, pipe)
    assert (ended.returncode, ended.stdout, ended.stderr) == (141, "0\n", "")


def test_a_terminal_without_utf_8_gets_what_it_can_show(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = run_script("print('2×'); raise __import__('models.errors').errors.ShoalError('3×')",
        tmp_path, **plain)  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "2\\xd7\n", "error: 3\\xd7\n")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGINT, "stopped\n"),
        (signal.SIGTERM, "stopped by SIGTERM\n"),
        (signal.SIGHUP, "stopped by SIGHUP\n"),
    ],
)
def test_a_signal_ends_a_stage_in_one_line(
    number: signal.Signals, told: str, tmp_path: Path
) -> None:
    line = f"import os, time; os.kill(os.getpid(), {int(number)}); time.sleep(60)"
    ended = run_script(line, tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", told)


def test_a_second_signal_ends_what_does_not_end_by_the_first(tmp_path: Path) -> None:
    line = (
        "import os, signal, time\n"
        "    try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
        "    finally: os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    ended = run_script(line, tmp_path)
    assert (ended.returncode, ended.stderr) == (143, "stopped by SIGTERM\n")


def test_a_stop_that_a_library_turns_into_an_error_of_its_own_is_still_a_stop(
    tmp_path: Path,
) -> None:
    line = (
        "import os, signal, time\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "    except BaseException as e: raise RuntimeError('in a callback') from e"
    )
    ended = run_script(line, tmp_path)
    assert (ended.returncode, ended.stderr) == (130, "stopped\n")
