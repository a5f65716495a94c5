"""Prove on this machine what only a CUDA device can prove: `make device-check`.

Runs the tests marked `device` and prints one line for each: passed, failed or not run, and why.
The exit code is 0 where all that could run passed, 1 where one failed, 2 where none could run.
"""

import sys
from dataclasses import dataclass, field

import pytest


@dataclass
class Table:
    """Keeps how each test ended, and why, by its first line and parameters."""

    lines: dict[str, tuple[str, str]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Name a test by the first line of its docstring."""
        text = (getattr(item, "obj", None).__doc__ or item.name).splitlines()[0].rstrip(".")
        parameters = item.name.partition("[")[2].rstrip("]")
        self.titles[item.nodeid] = f"{text} ({parameters})" if parameters else text

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome: of the test itself, or of what kept it from starting."""
        if report.skipped:
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            self.lines[report.nodeid] = "not run", reason
        elif report.failed:
            last = str(report.longrepr).strip().splitlines()[-1]
            self.lines[report.nodeid] = "FAILED", last
        elif report.when == "call":
            self.lines.setdefault(report.nodeid, ("passed", ""))

    def pytest_terminal_summary(self) -> None:
        """Print the table."""
        print("\n")
        for node, (outcome, reason) in self.lines.items():
            print(f"{outcome:8}{self.titles[node]}" + (f": {reason}" if reason else ""))

    def exit_code(self) -> int:
        """Return 0, 1 or 2, as the module says."""
        outcomes = {outcome for outcome, _ in self.lines.values()}
        if "FAILED" in outcomes or not outcomes:
            return 1
        return 0 if "passed" in outcomes else 2


if __name__ == "__main__":
    table = Table()
    code = pytest.main(["-m", "device", "-q", "--no-header", *sys.argv[1:]], plugins=[table])
    known = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    sys.exit(table.exit_code() if code in known else int(code))
