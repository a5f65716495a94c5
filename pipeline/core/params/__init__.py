"""params.yaml as typed, validated values; sections are declarations (docs/decisions/0016)."""

from pipeline.core.params.data import Prepare
from pipeline.core.params.deployment import (
    Backend,
    Batch,
    Benchmark,
    Build,
    Bundle,
    Choose,
    Collapse,
    Export,
    Precision,
    Verify,
    WarmUp,
)
from pipeline.core.params.loading import PARAMS, Params, load_params, validate
from pipeline.core.params.planning import Heal, HealDistill, Plan, Score, Variant
from pipeline.core.params.section import Criterion, Section
from pipeline.core.params.training import (
    Distill,
    LevelOfPlan,
    Method,
    Model,
    Normalisation,
    Penalty,
    Strategy,
    Train,
)

__all__ = [
    "PARAMS",
    "Backend",
    "Batch",
    "Benchmark",
    "Build",
    "Bundle",
    "Choose",
    "Collapse",
    "Criterion",
    "Distill",
    "Export",
    "Heal",
    "HealDistill",
    "LevelOfPlan",
    "Method",
    "Model",
    "Normalisation",
    "Params",
    "Penalty",
    "Plan",
    "Precision",
    "Prepare",
    "Score",
    "Section",
    "Strategy",
    "Train",
    "Variant",
    "Verify",
    "WarmUp",
    "load_params",
    "validate",
]
