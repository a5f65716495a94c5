"""Fill the tables of docs/results.md, and draw its plots, from benchmarks/results/*.jsonl.

    python -m benchmarks.page.results

Between `<!-- table: NAME -->` and `<!-- /table -->` stands what `TABLES[NAME]` makes of the
results; the text around is written by hand. tests/report/test_results.py compares both.
"""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.page.choices import choices, correlations
from benchmarks.page.plots import accuracy_by_depth, accuracy_by_way
from benchmarks.page.spread import spread
from benchmarks.page.tables import Rows, grouped, markdown, measured
from pipeline.core.artifacts import replace_file

PAGE = Path("docs/results.md")
MISSING = "Not measured yet.\n"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def main() -> None:
    """Fill the page and draw the plots."""
    with replace_file(PAGE) as temporary:
        temporary.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    accuracy_by_depth(_sweep(), PAGE.with_name("results_penalty.png"))
    for task in ("resnet18", "efficientnet_lite0"):
        path = PAGE.with_name(f"results_{task}.png")
        accuracy_by_way(strategy_rows(task), path)
    print(PAGE.read_text(encoding="utf-8"))


def filled(page: str) -> str:
    """Return the page with its tables made anew."""
    return TABLE.sub(lambda match: match[1] + (TABLES[match[2]]() or MISSING) + match[3], page)


def setting(row: dict[str, Any]) -> str:
    """Return how a training of the penalty experiment differs from plain training."""
    penalty = row["penalty"]
    if not penalty["lambda"]:
        return "λ = 0"
    label = f"λ = {penalty['lambda']:g}, {penalty['estimator']}"
    if "batch_size" in row:
        label += f", batch {row['batch_size']}"
    if penalty["projections"] != 50:
        label += f", L = {penalty['projections']}"
    return label


def penalty_rows(task: str) -> dict[str, Rows]:
    """Return the λ sweep of a task by setting, λ ascending."""
    groups = grouped(measured("penalty", task), setting)
    return dict(sorted(groups.items(), key=lambda item: item[1][0]["penalty"]["lambda"]))


def _depths(rows: Rows) -> list[str]:
    """Return test % by the number of blocks out, plainly, and for all of them mended."""
    levels = list(rows[0]["levels"])
    cells = [spread([row["levels"][n]["identity"] for row in rows]) for n in levels]
    mended = [spread([row["levels"][levels[-1]][key] for row in rows]) for key in ("bn", "linear")]
    return [*cells, *mended]


def sweep() -> str:
    """Return λ × estimator: test % against removed blocks."""
    groups = _sweep()
    depth = _deepest(groups)
    head = ["penalty", "seeds", "whole", *(f"{n} out" for n in range(1, depth + 1))]
    head += [f"{depth} out, BN re-estimated", f"{depth} out, linear maps"]
    return markdown(
        head, ([label, str(len(rows)), *_depths(rows)] for label, rows in groups.items())
    )


def _deepest(groups: dict[str, Rows]) -> int:
    return max((len(rows[0]["order"]) for rows in groups.values()), default=0)


def _sweep() -> dict[str, Rows]:
    groups = penalty_rows("resnet18")
    return {k: v for k, v in groups.items() if "batch" not in k and "L =" not in k}


def batch_norm() -> str:
    """Return the same with batch norm re-estimated after each removal."""
    groups = _sweep()
    levels = [str(n) for n in range(1, _deepest(groups) + 1)]
    return markdown(
        ["penalty", *(f"{n} out" for n in levels)],
        (
            [label, *(spread([row["levels"][n]["bn"] for row in rows]) for n in levels)]
            for label, rows in groups.items()
        ),
    )


def ablations() -> str:
    """Return batch sizes and numbers of directions at one λ."""
    groups = penalty_rows("resnet18")
    chosen = {label: rows for label, rows in groups.items() if label.startswith("λ = 3, random")}

    def cells(rows: Rows) -> list[str]:
        levels = (0, len(rows[0]["order"]))
        accuracies = [spread([row["levels"][str(n)]["identity"] for row in rows]) for n in levels]
        return [*accuracies, f"{statistics.mean(row['cpu_seconds'] for row in rows):.0f}"]

    return markdown(
        ["penalty", "seeds", "whole", "all out", "CPU s"],
        ([label, str(len(rows)), *cells(rows)] for label, rows in chosen.items()),
    )


def families() -> str:
    """Return λ per architecture: test % whole, with half and with all removable blocks out."""
    lines = []
    for task in ("vit", "mobilenetv2"):
        for label, rows in penalty_rows(task).items():
            depth = len(rows[0]["order"])
            levels = [str(n) for n in (0, (depth + 1) // 2, depth)]
            cells = [spread([row["levels"][n]["identity"] for row in rows]) for n in levels]
            cells.append(spread([row["levels"][str(depth)]["linear"] for row in rows]))
            lines.append([task, str(depth), label, str(len(rows)), *cells])
    head = [
        "network",
        "removable",
        "penalty",
        "seeds",
        "whole",
        "half out",
        "all out",
        "all, linear maps",
    ]
    return markdown(head, lines)


def full_width() -> str:
    """Return the run at the authors' width: what every removed block costs and saves."""
    groups = penalty_rows("resnet18_full")
    if not groups:
        return ""
    plain, penalised = (rows[0] for rows in groups.values())
    lines = []
    for level, macs in enumerate(penalised["macs"]):
        own, bare = (row["levels"][str(level)] for row in (penalised, plain))
        lines.append(
            [
                str(level),
                f"{macs / 1e6:.2f}",
                f"{100 * (macs / penalised['macs'][0] - 1):+.1f} %",
                f"{own['identity']:.2f}",
                f"{bare['identity']:.2f}",
                *(f"{bare[name]:.2f}" if name in bare else "–" for name in ("bn", "linear")),
                f"{own['linear']:.2f}" if "linear" in own else "–",
                _speed_up("resnet18_full", [penalised], level) if level else "1.00",
            ]
        )
    names = list(groups)
    head = ["blocks out", "MMACs", "change", names[1], names[0], f"{names[0]}, BN"]
    head += [f"{names[0]}, maps", f"{names[1]}, maps", "times as fast"]
    return markdown(head, lines)


def strategy_rows(task: str) -> dict[str, Rows]:
    """Return the results of the strategies by way."""
    return grouped(measured("strategies", task), lambda row: row["way"])


def _strategies(task: str) -> str:
    """Return the honest table: a row per way."""
    groups = strategy_rows(task)
    if not groups:
        return ""
    half, full = half_and_all(task)
    lines = []
    for way, rows in groups.items():
        at = {n: [row for row in rows if str(n) in row["levels"]] for n in (0, half, full)}
        seeds = sorted({len(own) for own in at.values() if own})
        cells = [_accuracies(own, depth) for depth, own in at.items()]
        speeds = [_speed_up(task, at[depth], depth) for depth in (half, full)]
        lines.append([way, _range(seeds), _seconds(rows), *cells, *speeds])
    head = ["way", "seeds", "CPU s", "whole", f"{half} out", f"{full} out"]
    return markdown([*head, f"times as fast, {half} out", f"{full} out"], lines)


def _accuracies(rows: Rows, depth: int) -> str:
    """Return test % as trained; else as removed and, behind it, by repair."""
    if not rows:
        return "–"
    levels = [row["levels"][str(depth)] for row in rows]
    labels = {"trained": "", "identity": "", "bn": "BN ", "linear": "maps "}
    found = [
        f"{label}{spread([own[key] for own in levels])}"
        for key, label in labels.items()
        if key in levels[0]
    ]
    return "; ".join(found)


def _speed_up(task: str, rows: Rows, depth: int) -> str:
    """Return how many times as fast the networks are as the whole one."""
    known = {Shape.of(row): row["speed_up"] for row in measured("latency", task)}
    made = {shape_at(row, depth) for row in rows}
    found = sorted(known[shape] for shape in made if shape in known)
    return _range([f"{value:.2f}" for value in found]) if found else "–"


def _range(values: Sequence[object]) -> str:
    low, high = str(values[0]), str(values[-1])
    return low if low == high else f"{low}–{high}"


@dataclass(frozen=True, order=True)
class Shape:
    """Which blocks a network lacks, and what stands in for them."""

    removed: tuple[str, ...] = ()
    replacement: str = "identity"

    def __str__(self) -> str:
        """Return the name under which its latency is kept."""
        if not self.removed:
            return "whole"
        mapped = "" if self.replacement == "identity" else f", {self.replacement}"
        return "+".join(self.removed) + mapped

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Shape":
        """Return the shape that a result of the latencies is of."""
        return cls(tuple(row["removed"]), row["replacement"])


def shape_at(row: Mapping[str, Any], depth: int) -> Shape:
    """Return the network that a training left with so many blocks out."""
    removed = row["order"][:depth] if "order" in row else row["removed"]
    mapped = "linear maps" in row.get("way", "") and "order" not in row
    return Shape(tuple(sorted(removed)), "linear" if mapped else "identity")


def half_and_all(task: str) -> tuple[int, int]:
    """Return half of the number of removable blocks, rounded up, and the number."""
    plain = next(iter(strategy_rows(task).values()))[0]
    full = len(plain["order"])
    return (full + 1) // 2, full


def _seconds(rows: Rows) -> str:
    return f"{statistics.mean(row['cpu_seconds'] for row in rows):.0f}"


TABLES: dict[str, Callable[[], str]] = {
    "sweep": sweep,
    "batch_norm": batch_norm,
    "ablations": ablations,
    "families": families,
    "full_width": full_width,
    "strategies_resnet18": lambda: _strategies("resnet18"),
    "strategies_efficientnet_lite0": lambda: _strategies("efficientnet_lite0"),
    "choices_resnet18": lambda: choices("resnet18"),
    "choices_efficientnet_lite0": lambda: choices("efficientnet_lite0"),
    "correlations": correlations,
}


if __name__ == "__main__":
    main()
