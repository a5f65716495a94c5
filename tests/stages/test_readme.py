"""The README's numbers are those of the committed report, and what it names is there."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from places import FIXED, ROOT

from pipeline.core.params import load_params

README = (ROOT / "README.md").read_text(encoding="utf-8")


def committed(path: str) -> str:
    """Return a file as it was committed: `dvc repro` writes over reports/."""
    show = ["git", "show", f"HEAD:{path}"]
    try:
        return subprocess.run(show, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not in a git checkout, so there is no committed report to compare with")


def test_the_results_are_those_of_the_committed_report() -> None:
    summary = json.loads(committed("reports/summary.json"))
    engines = {
        (engine["variant"], engine["level"], engine["precision"]): engine
        for engine in summary["engines"]
        if engine["backend"] == "onnxruntime"
    }
    expected = [
        f"| {row['variant']} | {row['level'] + len(row['removed_in_training'])} "
        f"| {row['replacement'] if row['level'] else '–'} "
        f"| {row['params'] / 1e3:.0f} | {row['macs'] / 1e6:.2f} "
        f"| {exact['test_accuracy_pct']:.2f} | {quantised['test_accuracy_pct']:.2f} "
        f"| {exact['quiet_ms']:.2f} | {quantised['quiet_ms']:.2f} |"
        for row in summary["networks"]
        if row["precision"] == "fp32" and row["level"] in (0, 5)
        for exact, quantised in [
            [engines[row["variant"], row["level"], precision] for precision in ("fp32", "int8")]
        ]
    ]
    results = committed("README.md").partition("<!-- results")[2].partition("<!-- /results")[0]
    lines = [line for line in results.splitlines() if line.startswith("|")][2:]
    assert lines == expected


def test_the_seeds_and_the_faults_are_those_of_their_pages() -> None:
    spreads = re.findall(r"\d+\.\d+ ± \d+\.\d+", README.replace("\n", " "))
    seeds = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")
    assert len(spreads) == 3
    assert all(spread in seeds for spread in spreads)
    faults = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    tried = re.search(r"\| \*\*all\*\* \| ([\d,]+) \| \1 \| 0 \|", faults)
    assert tried is not None
    number = int(tried[1].replace(",", ""))
    assert f"[{number:,} faults, none lost]" in README.replace("\n", " ")


def test_what_it_links_to_is_there() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(targets) >= 6
    for target in targets:
        assert (ROOT / target).exists(), target


def test_its_parameters_are_valid(tmp_path: Path) -> None:
    example = yaml.safe_load(README.partition("```yaml\n")[2].partition("```")[0])
    params = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    for key, value in example.items():
        params[key] = value if key == "variants" else params[key] | value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    loaded = load_params(path)
    assert loaded.variant("lacoot_strong").train.penalty.weight == 5
    assert loaded.variant("dense").model.name == "convnext_tiny"


def test_its_library_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(README.partition("```python\n")[2].partition("```")[0], names)
    assert names["report"].removed == names["removable"][:3]
    assert names["report"].after.macs < names["report"].before.macs
    assert (tmp_path / "shallow.onnx").exists()
