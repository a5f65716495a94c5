"""A plugin of pytest that counts the faults that were tried and writes docs/faults.md.

A test names its fault by the marker `fault`. By properties (`record_property`) it says how many it
tried (`faults`), which answers it saw (`behaviours`), and what a kill of a stage cost (`lost`: the
stage, seconds of an undisturbed run, most seconds lost).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """\
# Faults tried

Written by `make faults` (tests/faults/), which tries every fault of the suite; `make test` tries
a part of them. A fault is survived where all that its test demands holds: one clear message or
none, no result that is half or wrong, and, once the fault is removed, the same results as without
it. Of the calls by which SQLite writes MLflow's store, a dozen of each operation are tried. A kill
that came after its stage had ended is not counted. Where inputs are fuzzed, answers are the
messages that differ in more than in names and numbers, and "valid".

| fault | tried | survived | failed | distinct answers |
| --- | ---: | ---: | ---: | ---: |
"""
LOST = """
## What a kill costs

The killed run and the next one, less an undisturbed one, in the worst of all places. The project is
little: three classes of 24 images, three epochs; a training goes on from its last epoch.

| stage | undisturbed, s | most lost, s |
| --- | ---: | ---: |
"""


class Counted:
    """Faults by name, as the reports of tests tell them."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()
        self.skipped: dict[str, set[str]] = defaultdict(set)
        self.answers: dict[str, set[str]] = defaultdict(set)
        self.lost: dict[str, list[tuple[float, float]]] = defaultdict(list)

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
            self.answers[name].update(properties.get("behaviours", ()))
            if "lost" in properties:
                stage, *seconds = properties["lost"]
                self.lost[stage].append(tuple(seconds))

    def pytest_sessionfinish(self) -> None:
        if self.tried:
            PAGE.write_text(HEAD + "\n".join(self.lines()) + "\n", encoding="utf-8")

    def lines(self) -> Iterator[str]:
        for name, tried in sorted(self.tried.items()):
            survived, answers = self.survived[name], len(self.answers[name])
            yield f"| {name} | {tried:,} | {survived:,} | {tried - survived:,} | {answers or ''} |"
        tried, survived = self.tried.total(), self.survived.total()
        yield f"| **all** | {tried:,} | {survived:,} | {tried - survived:,} | |"
        yield LOST.rstrip()
        for stage, seconds in sorted(self.lost.items()):
            alone, lost = (max(column) for column in zip(*seconds, strict=True))
            yield f"| {stage} | {alone:.1f} | {max(lost, 0):.1f} |"
        if self.skipped:
            yield "\nNot tried:\n"
        for name, reasons in sorted(self.skipped.items()):
            yield f"- {name}: {'; '.join(sorted(reasons))}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if marker := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", marker.args[0]))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # of several processes, the one that hears of all
        config.pluginmanager.register(Counted())
