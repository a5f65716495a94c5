"""Train every variant of params.yaml with several seeds and write the spread to docs/seeds.md.

Run after `dvc repro prepare`:

    python -m benchmarks.evidence.seeds 0 1 2

Accuracies are those of the PyTorch network as trained and with all removable blocks bypassed; they
show the spread of a setting, and no setting should be chosen by them (docs/log.md tells where one
was).
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.page.spread import spread
from models.surgery import bypass
from models.unit_selection import select_units
from pipeline.core.artifacts import artifacts_dir, replace_file
from pipeline.core.devices import pick_device
from pipeline.core.params import Variant, load_params
from pipeline.data import dataset as data
from pipeline.train.initial_network import create_network
from pipeline.train.loop import train

TARGET = Path("docs/seeds.md")


def main() -> None:
    """Train, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    seeds = parser.parse_args().seeds
    params = load_params()
    images = data.load(artifacts_dir("prepare"))
    results = {
        name: [accuracies(variant, seed, images) for seed in seeds]
        for name, variant in params.variants.items()
    }
    with replace_file(TARGET) as temporary:
        temporary.write_text(table(results, seeds), encoding="utf-8")
    print(TARGET.read_text(encoding="utf-8"))


def accuracies(variant: Variant, seed: int, images: data.Dataset) -> tuple[float, float]:
    """Train once; return test % as trained, and with all removable blocks out."""
    device = pick_device()
    torch.manual_seed(seed)
    model, spec, images = create_network(variant.model, images)
    units = select_units(model, spec.example(), variant.method.mode, variant.method.unit).removable
    with tempfile.TemporaryDirectory() as folder:
        train(
            model,
            images,
            variant.train.model_copy(update={"seed": seed}),
            units,
            device=device,
            checkpoint=Path(folder) / "state.pt",
            log=lambda entry: print(f"seed {seed}: {entry}", flush=True),
        )

    def test(network: torch.nn.Module) -> float:
        return images.accuracy_pct(images.test, network.eval(), device)

    return test(model), test(bypass(model, [unit.name for unit in units]))


def table(results: dict[str, list[tuple[float, float]]], seeds: list[int]) -> str:
    """Return the accuracies per seed and their mean ± standard deviation, as Markdown."""
    lines = [
        "# Spread over seeds",
        "",
        f"Written by `python -m benchmarks.evidence.seeds {' '.join(map(str, seeds))}` on "
        f"params.yaml, torch {torch.__version__}, {pick_device()}. Test accuracy in %, mean ± "
        "standard deviation, single seeds in brackets.",
        "",
        "| variant | as trained | all removable blocks out |",
        "| --- | --- | --- |",
    ]
    for name, measured in results.items():
        trained, shallow = zip(*measured, strict=True)
        lines.append(f"| {name} | {_spread(trained)} | {_spread(shallow)} |")
    return "\n".join(lines) + "\n"


def _spread(values: tuple[float, ...]) -> str:
    each = ", ".join(f"{value:.2f}" for value in values)
    return f"{spread(values)} ({each})"


if __name__ == "__main__":
    main()
