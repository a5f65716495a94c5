"""A plugin of pytest that counts the faults that were tried and writes docs/faults.md.

A test names its fault by the marker `fault`, and where it tries more than one says how many by the
property `faults` (`record_property`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """\
# Faults tried

Written by `make faults` (tests/faults/), which runs every fault of the suite; `make test`
runs a part of them. A fault is survived where all that its test demands holds: one clear message or
none, no result that is half or wrong, and, once the fault is removed, the same results as without
it.

| fault | tried | survived | lost |
| --- | ---: | ---: | ---: |
"""


class Counted:
    """Faults by name, as the reports of tests tell them."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()
        self.skipped: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        name, number = properties.get("fault"), int(properties.get("faults", 1))
        if name is None:
            return
        if report.skipped:
            self.skipped[name].add(str(report.longrepr[-1]).removeprefix("Skipped: "))
        elif report.when == "call" or report.failed:
            self.tried[name] += number
            self.survived[name] += number * report.passed

    def pytest_sessionfinish(self) -> None:
        if self.tried:
            PAGE.write_text(HEAD + "\n".join(self.lines()) + "\n", encoding="utf-8")

    def lines(self) -> Iterator[str]:
        for name, tried in self.tried.items():
            survived = self.survived[name]
            yield f"| {name} | {tried} | {survived} | {tried - survived} |"
        tried, survived = self.tried.total(), self.survived.total()
        yield f"| **all** | {tried} | {survived} | {tried - survived} |"
        if self.skipped:
            yield "\nNot tried:\n"
        for name, reasons in self.skipped.items():
            yield f"- {name}: {'; '.join(sorted(reasons))}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if marker := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", marker.args[0]))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Counted())
