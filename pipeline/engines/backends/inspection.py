"""Is an engine really of the precision on its label? Its weights and operators are the evidence.

No builder reports reliably in which types its engine computes, so this is not taken from a library.
Operators kept in a higher precision are allowed: more than half must be of the label's type, of the
weights by their number and of the operators by their count.
"""

from collections.abc import Mapping

from models.errors import BackendError, BackendUnavailable, PrecisionError
from pipeline.engines.backends.interface import Job, PrecisionEvidence
from pipeline.engines.backends.weights import ITEM_BYTES, weight_bytes

TYPES = {
    "fp32": {"float32"},
    "fp16": {"float16"},
    "bf16": {"bfloat16"},
    "int8": {"int8", "uint8"},
}


def require_graph(job: Job) -> None:
    """Raise `PrecisionError` where the graph itself is not of the precision on its label."""
    held = _numbers(weight_bytes(job.source))
    if held and not _mostly(held, job.precision):
        raise PrecisionError(
            f"{job.source} is no {job.precision} graph: its weights are {_shares(held)}; make it "
            "again with `dvc repro`"
        )


def require_precision(
    backend: str, strongly_typed: bool, job: Job, evidence: PrecisionEvidence
) -> None:
    """Raise where an engine is not of the precision on its label, or nothing shows that it is.

    Raises:
        PrecisionError: the backend promises the types of the graph, and has not kept to them.
        BackendUnavailable: the backend has chosen other types, as it may where the machine has no
            such arithmetic.
        BackendError: most of the weights were not found, and might be float32.
    """
    engine = f"the {job.precision} engine that {backend} makes of {job.source.name}"
    contradiction = _contradiction(job.precision, evidence)
    if contradiction and strongly_typed:
        raise PrecisionError(
            f"{engine} {contradiction} ({evidence.evidence_method}); build with another version "
            f"of {backend}"
        )
    if contradiction:
        raise BackendUnavailable(
            f"{engine} {contradiction} on this machine ({evidence.evidence_method})"
        )
    if not _shown(job, evidence):
        raise BackendError(
            f"{engine} cannot be shown to be {job.precision}: {evidence.weights_not_found:,} of "
            "its weights were not found and would fit into it in float32; build it beside its GPU, "
            "where it can be inspected"
        )


def _contradiction(precision: str, evidence: PrecisionEvidence) -> str:
    """Return what the engine holds or does against its label; "" where nothing was seen."""
    held = _numbers(evidence.weight_bytes)
    if held and not _mostly(held, precision):
        return f"holds its weights in {_shares(held)}"
    if evidence.operators and not _mostly(evidence.operators, precision):
        return f"computes convolutions and matrix products in {_shares(evidence.operators)}"
    return ""


def _shown(job: Job, evidence: PrecisionEvidence) -> bool:
    """Say whether most weights were seen, or the file is too small for the rest in float32."""
    found = sum(_numbers(evidence.weight_bytes).values())
    if job.precision == "fp32" or evidence.weights_not_found <= found:
        return True
    rest = job.target.stat().st_size - sum(evidence.weight_bytes.values())
    return rest < ITEM_BYTES["float32"] * evidence.weights_not_found


def _numbers(bytes_by_kind: Mapping[str, int]) -> dict[str, int]:
    return {kind: size // ITEM_BYTES[kind] for kind, size in bytes_by_kind.items()}


def _mostly(numbers: Mapping[str, int], precision: str) -> bool:
    labelled = sum(numbers.get(kind, 0) for kind in TYPES[precision])
    return 2 * labelled > sum(numbers.values())


def _shares(numbers: Mapping[str, int]) -> str:
    """Return shares, e.g. ``float32 (97 %) and int8 (3 %)``."""
    total = sum(numbers.values())
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return " and ".join(f"{kind} ({100 * number / total:.0f} %)" for kind, number in ordered)
