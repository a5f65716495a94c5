"""Train one variant: artifacts/train/<variant>/ and metrics/train/<variant>.json.

Killed at any moment, the next run continues from the last finished epoch. With `train.processes`,
or started by `torchrun`, several processes share the work; the first writes (docs/scale.md).
"""

from functools import partial

from torch.distributed import is_torchelastic_launched

from models.errors import ParamsError
from pipeline.core.artifacts import metrics_path, read_json
from pipeline.core.params import Params, load_params
from pipeline.core.sources import record_of_variant
from pipeline.core.stage_script import run_variant_stage
from pipeline.report.tracking.live import live_training
from pipeline.train.launch import joined, start, to_start
from pipeline.train.run import planned, train_variant


def main(variant: str) -> None:
    """Train the variant here, or in as many processes as are asked for."""
    params = load_params()
    settings = params.variant(variant)
    if not is_torchelastic_launched():  # the starter has done it
        _require_teacher_of_today(params, settings.train.distill.teacher)
        record_of_variant(params, variant)
    if count := to_start(settings.train.processes):
        start(count, "stages.train", variant)
        return
    with joined() as device:
        train_variant(variant, settings, device, partial(live_training, params.name))


def _require_teacher_of_today(params: Params, name: str | None) -> None:
    """Raise where a teacher was trained with other settings: DVC may run a pupil before it."""
    if name is None or not metrics_path("train", name).exists():
        return
    wanted = planned(params.variant(name)).model_dump(by_alias=True, exclude={"plan"})
    trained = read_json(metrics_path("train", name))
    if not isinstance(trained, dict) or trained | wanted != trained:
        raise ParamsError(
            f"teacher {name!r} was trained with other settings than those of params.yaml; first: "
            f"dvc repro train@{name}"
        )


if __name__ == "__main__":
    run_variant_stage(main)
