"""Time everything that can run here in one interleaved run and print one table.

python -m stages.bench --min-accuracy 90 --backend onnxruntime --precision fp32 int8 --batch 1 128

Writes bench.json, bench.csv and bench.md. Exit codes: 0, done and the gate (if any) is met; 1, an
error; 2, wrong usage; 3, the gate is not met. The gate holds every timed engine at its variant's
chosen level against the floor, by the test accuracy of its own bytes.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts import (
    REPORTS,
    artifacts_dir,
    metrics_path,
    read_json,
    replace_file,
    write_json,
)
from pipeline.bench import gate, rows, verdicts
from pipeline.bench_entries import Wanted, entries, settled
from pipeline.bench_table import as_csv, as_markdown
from pipeline.data import validation_sample
from pipeline.measurement import measure_engines
from pipeline.params import load_params
from pipeline.probe import probe
from pipeline.protocol import machine
from stages import run_stage

GATE_NOT_MET = 3


def main() -> None:
    """Measure, print, write, and exit with 3 where the floor of accuracy is not held."""
    arguments = _arguments()
    result = _bench(arguments)
    table = as_markdown(result)
    print(table)
    write_json(arguments.out / "bench.json", result)
    for name, text in (("bench.md", table), ("bench.csv", as_csv(result))):
        with replace_file(arguments.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(f"written to {arguments.out}: bench.json, bench.csv, bench.md")
    if result["gate"] and not result["gate"]["met"]:
        sys.exit(GATE_NOT_MET)


def _bench(arguments: argparse.Namespace) -> dict[str, Any]:
    wanted = Wanted(
        arguments.variants,
        arguments.precision,
        arguments.backend,
        arguments.batch,
        arguments.all_levels,
    )
    variants, params = settled(load_params(), wanted)
    facts = {
        variant: {
            stage: read_json(metrics_path(stage, variant)) for stage in ("heal", "build", "verify")
        }
        for variant in variants
    }
    folders = {variant: artifacts_dir("build", variant) for variant in variants}
    found = entries(facts, folders, wanted, params)
    images = validation_sample(artifacts_dir("prepare"), max(params.benchmark.batch_sizes))
    measured = measure_engines(found.timed, images, params.benchmark)
    floor = arguments.min_accuracy
    return {
        "reference": f"{found.first} level 0 fp32",
        "target": machine(probe()),  # the artifacts may be from another
        "protocol": measured.protocol,
        "conditions": measured.conditions,
        "rows": rows(measured, found),
        "verdicts": verdicts(measured, found),
        "not_timed": [asdict(one) for one in found.refused],
        "no_energy": measured.no_energy,
        "gate": gate(found, floor) if floor is not None else None,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--min-accuracy", type=float, metavar="PCT", help="floor of the gate")
    parser.add_argument("--variants", nargs="+", help="all by default; ratios relate to the first")
    parser.add_argument("--precision", nargs="+", help="all by default")
    parser.add_argument("--backend", nargs="+", help="all that can run here by default")
    parser.add_argument("--batch", nargs="+", type=int, help="benchmark.batch_sizes by default")
    parser.add_argument("--all-levels", action="store_true", help="not only 0, chosen and deepest")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder to write to")
    return parser.parse_args()


if __name__ == "__main__":
    run_stage(main)
