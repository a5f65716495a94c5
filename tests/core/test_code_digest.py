"""The digest of a stage's code: of what dvc.yaml lists, and of nothing else."""

from itertools import product
from pathlib import Path

import pytest

from models.errors import ArtifactError
from pipeline.core.artifacts import code_digest

LISTED = """
stages:
  train:
    foreach: ${variants}
    do:
      deps: [artifacts/prepare, models, pipeline/core, pipeline/data/dataset.py, requirements.lock]
  report:
    deps: [pipeline/report]
"""
CODE = ("models/a.py", "models/deep/b.py", "pipeline/core/c.py", "pipeline/data/dataset.py")
OTHERS = ("pipeline/core/params/d.py", "pipeline/data/e.py", "pipeline/report/f.py", "models/g.txt")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(LISTED, encoding="utf-8")
    for name in (*CODE, *OTHERS):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("name", "changes"), [*product(CODE, [True]), *product(OTHERS, [False])])
def test_an_edit_of_listed_code_changes_it_and_no_other(
    name: str, changes: bool, project: Path
) -> None:
    before = code_digest("train", project)
    (project / name).write_text("after", encoding="utf-8")
    assert (code_digest("train", project) != before) == changes


def test_a_file_that_is_missing_is_named(project: Path) -> None:
    assert code_digest("report", project) != code_digest("train", project)
    (project / "pipeline/data/dataset.py").unlink()
    with pytest.raises(ArtifactError, match=r"data/dataset\.py is missing"):
        code_digest("train", project)
    (project / "dvc.yaml").unlink()
    with pytest.raises(ArtifactError, match=r"dvc\.yaml is missing"):
        code_digest("train", project)


def test_the_stages_that_continue_know_their_code() -> None:
    assert code_digest("train") != code_digest("heal")
