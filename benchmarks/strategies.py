"""Compare ways to a network without its removable blocks, at equal training time.

    dvc repro prepare
    python -m benchmarks.strategies 0 1 2 --threads 2

Every way gets about the time that the plain training takes: its number of epochs follows from the
images per second it reaches in a trial, interleaved with the others'. The network, data and recipe
are those of params.yaml. Finished trainings are kept under .cache and not repeated, so a stopped
run can be continued. The table goes to docs/strategies.md; accuracies are on test, read once, and
nothing was chosen by them.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.spread import spread
from models.surgery import bypass
from models.units import Unit
from pipeline import data
from pipeline.artifacts import CACHE, artifacts_dir, code_digest, digest, replace_file
from pipeline.data import Dataset
from pipeline.devices import pick_device
from pipeline.evaluate import accuracy_pct, reestimate_batch_norm
from pipeline.method import select_units
from pipeline.networks import create_network
from pipeline.params import Train, Variant, load_params
from pipeline.replacement import fit
from pipeline.train import EVALUATION_BATCH, Trained, train

TARGET = Path("docs/strategies.md")
RESULTS = CACHE / "benchmarks" / "strategies.jsonl"
TRIAL_IMAGES, TRIAL_ROUNDS = 8192, 3
CALIBRATION_IMAGES = 2048
WAYS: dict[str, dict[str, Any]] = {
    "plain training, nothing removed while it trains": {},
    "`penalty`, λ = 5, random (the paper)": {"penalty": {"lambda": 5.0, "estimator": "random"}},
    "`penalty`, λ = 3, random": {"penalty": {"lambda": 3.0, "estimator": "random"}},
    "`penalty`, λ = 3, power": {"penalty": {"lambda": 3.0, "estimator": "power"}},
    "`progressive`, λ = 3, power": {
        "penalty": {"lambda": 3.0, "estimator": "power"},
        "strategy": {"name": "progressive"},
    },
    "`progressive`, λ = 0": {"strategy": {"name": "progressive"}},
    "`anneal`": {"strategy": {"name": "anneal"}},
    "`remove_first`, at 40 %": {"strategy": {"name": "remove_first", "until": 0.4}},
    "`shallow`": {"strategy": {"name": "shallow"}},
}


def main() -> None:
    """Train what has not been trained yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    params = load_params()
    variant = next(iter(params.variants.values()))
    images = data.load(artifacts_dir("prepare"))
    setting = digest([variant.model_dump(by_alias=True), params.prepare.model_dump(), WAYS])
    known = _known(f"{setting} {code_digest()}")
    epochs = known("epochs", partial(epochs_at_equal_time, variant, images))
    for seed in arguments.seeds:  # seed by seed, so that a stopped run has whole tables
        for way in WAYS:
            known(f"{way} {seed}", partial(measure, variant, way, seed, epochs[way], images))
    results = {way: [known(f"{way} {seed}") for seed in arguments.seeds] for way in WAYS}
    with replace_file(TARGET) as temporary:
        temporary.write_text(page(results, epochs, arguments.seeds), encoding="utf-8")
    print(TARGET.read_text(encoding="utf-8"))


def settings(variant: Variant, way: str, **changes: object) -> Train:
    """Return the recipe of the variant with what is particular to the way."""
    recipe = variant.train.model_dump(by_alias=True)
    own = {key: recipe[key] | value for key, value in WAYS[way].items()}
    return Train.model_validate(recipe | own | changes)


def epochs_at_equal_time(variant: Variant, images: Dataset) -> dict[str, int]:
    """Return how many epochs each way may take, from trials of one short epoch each."""
    few = data.subset(images.train, TRIAL_IMAGES, seed=0)
    trial = Dataset(**{**vars(images), "train": few, "validation": data.subset(few, 256, seed=0)})
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(TRIAL_ROUNDS):
        for way in WAYS:
            _, _, trained = _train(variant, settings(variant, way, epochs=1), trial)
            speeds[way].append(trained.history[0]["images_per_s"])
    plain, *_ = (max(own) for own in speeds.values())  # whatever else runs only slows down
    return {
        way: max(1, round(variant.train.epochs * max(own) / plain)) for way, own in speeds.items()
    }


def measure(
    variant: Variant, way: str, seed: int, epochs: int, images: Dataset
) -> dict[str, float]:
    """Train once; return seconds, and test % with all removable blocks out."""
    params = settings(variant, way, seed=seed, epochs=epochs)
    model, units, trained = _train(variant, params, images)
    there = [unit.name for unit in units if unit.name not in trained.removed]
    device = pick_device()
    options: Any = {"mean": images.mean, "std": images.std, "device": device}

    def test(network: nn.Module) -> float:
        return accuracy_pct(network.eval(), data.batches(images.test, EVALUATION_BATCH, **options))

    def calibration() -> Iterable[Any]:
        sample = data.subset(images.train, CALIBRATION_IMAGES, seed=0)
        return data.batches(sample, EVALUATION_BATCH, **options)

    result = {
        "seconds": sum(len(images.train) / entry["images_per_s"] for entry in trained.history),
        "whole": test(model),
        "identity": test(bypass(model, there)),
    }
    if there:
        re_estimated = bypass(model, there)
        reestimate_batch_norm(re_estimated, calibration())
        result["bn"] = test(re_estimated)
        stand_ins = fit(model.eval(), there, "linear", (x for x, _ in calibration()))
        result["linear"] = test(bypass(model, there, stand_ins))
    return result


def _train(
    variant: Variant, params: Train, images: Dataset
) -> tuple[nn.Module, list[Unit], Trained]:
    torch.manual_seed(params.seed)
    model, spec, images = create_network(variant.model, images)
    units = select_units(variant.method, model, spec.example()).removable
    with tempfile.TemporaryDirectory() as folder:
        trained = train(
            model,
            images,
            params,
            units,
            device=pick_device(),
            checkpoint=Path(folder) / "state.pt",
            log=lambda entry: None,
        )
    return model, units, trained


def _known(setting: str) -> Any:
    """Return a function that looks a result up by name, or computes it and keeps it."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]  # the last may be cut off
    found = {entry["name"]: entry["value"] for entry in entries if entry["setting"] == setting}

    def lookup(name: str, compute: Callable[[], Any] | None = None) -> Any:
        if compute is not None and name not in found:
            found[name] = compute()
            entry = {"setting": setting, "name": name, "value": found[name]}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            print(json.dumps(entry), flush=True)
        return found[name]

    return lookup


def page(
    results: dict[str, list[dict[str, float]]], epochs: dict[str, int], seeds: list[int]
) -> str:
    """Return docs/strategies.md."""
    lines = [
        "# Ways to a shallow network",
        "",
        f"Written by `python -m benchmarks.strategies {' '.join(map(str, seeds))}` on params.yaml, "
        f"torch {torch.__version__}, {pick_device()}, {torch.get_num_threads()} threads. Test "
        f"accuracy in %, mean ± standard deviation over {len(seeds)} seeds, with all removable "
        "blocks out: replaced by the identity, with batch norm re-estimated, or by linear maps of "
        "the channels, the latter two without training. Where blocks went while the network "
        "trained there is nothing left to replace. Epochs give every way about the same time.",
        "",
        "| way | epochs | seconds | nothing removed | identity | BN re-estimated | linear |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way, measured in results.items():
        removed_later = "bn" in measured[0]
        cells = [
            spread([m[key] for m in measured]) if removed_later or key == "identity" else "–"
            for key in ("whole", "identity", "bn", "linear")
        ]
        seconds = f"{statistics.mean(m['seconds'] for m in measured):.0f}"
        lines.append("| " + " | ".join([way, str(epochs[way]), seconds, *cells]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
