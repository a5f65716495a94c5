"""Build one variant's engines: artifacts/build/<variant>/ and metrics/build/<variant>.json."""

from pipeline.artifacts import artifacts_dir, metrics_path, read_json, replace_dir, write_json
from pipeline.build import build
from pipeline.params import load_params
from stages import run_variant_stage


def main(variant: str) -> None:
    """Build every level on every backend that is here; say which are not, and why."""
    params = load_params()
    params.variant(variant)
    levels = read_json(metrics_path("collapse", variant))["levels"]
    with replace_dir(artifacts_dir("build", variant)) as folder:
        built = build(levels, artifacts_dir("collapse", variant), folder, params.build)
    write_json(metrics_path("build", variant), {"variant": variant, **built})
    for backend, reason in built["not_available"].items():
        print(f"{variant}: {backend} is not available: {reason}")
    for level in built["levels"]:
        engines = ", ".join(
            f"{backend} {engine['bytes']:,} bytes in {engine['seconds']:.2f} s"
            for backend, engine in level["engines"].items()
        )
        print(f"{variant}: level {level['level']}  {engines}")


if __name__ == "__main__":
    run_variant_stage(main)
