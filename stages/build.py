"""Build one variant's engines: artifacts/build/<variant>/ and metrics/build/<variant>.json."""

from typing import Any

from pipeline.artifacts import artifacts_dir, metrics_path, read_json, replace_dir, write_json
from pipeline.build import build
from pipeline.params import load_params
from stages import run_variant_stage


def main(variant: str) -> None:
    """Build every graph on every backend that is here; say which engines are not, and why."""
    params = load_params()
    params.variant(variant)
    levels = read_json(metrics_path("precision", variant))["levels"]
    with replace_dir(artifacts_dir("build", variant)) as folder:
        built = build(levels, artifacts_dir("precision", variant), folder, params.build)
    write_json(metrics_path("build", variant), {"variant": variant, **built})
    for backend, reason in built["not_available"].items():
        print(f"{variant}: {backend} is not available: {reason}")
    for level in built["levels"]:
        _print(f"{variant}: level {level['level']}", level)


def _print(what: str, level: dict[str, Any]) -> None:
    for precision, engines in level["engines"].items():
        told = ", ".join(
            f"{backend} {engine['bytes']:,} bytes in {engine['seconds']:.2f} s"
            for backend, engine in engines.items()
        )
        print(f"{what}  {precision}: {told}")
    for precision, reasons in level["failed"].items():
        for backend, reason in reasons.items():
            print(f"{what}  {precision}: no {backend} engine: {reason}")


if __name__ == "__main__":
    run_variant_stage(main)
