from pathlib import Path

import pytest
from published import WRITERS, Write, accept_sums


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a tiny published data set, whose md5 sums torchvision then takes for the real ones."""

    def write(source: str, root: Path) -> Path:
        folder = WRITERS[source](root)
        accept_sums(monkeypatch, folder)
        return folder

    return write
