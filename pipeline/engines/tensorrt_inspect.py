"""In which types a TensorRT engine holds its weights and computes."""

from models.errors import BackendUnavailable
from pipeline.engines.interface import Evidence, Job
from pipeline.engines.tensorrt import Flavour, open_plan, package, read, runnable
from pipeline.engines.tensorrt_layers import Layer, matrix_operators, parse_layers, weight_bytes
from pipeline.engines.weights import find_weights


def inspect(flavour: Flavour, job: Job) -> Evidence:
    """Return the evidence: of the inspector where the engine can run, and of the plan's bytes.

    Raises:
        BackendError: the engine should run here and does not open.
    """
    note = None
    layers: list[Layer] = []
    try:
        runnable(flavour, job.options)
        layers = _layers(flavour, job)
    except BackendUnavailable as e:
        note = f"its layers were not seen: {e}"
    told = weight_bytes(layers)
    if told:
        return Evidence("engine inspector", told, matrix_operators(layers))
    found = find_weights(read(job.target), job.source)
    return Evidence(
        "weights found in the plan",
        found.weight_bytes,
        matrix_operators(layers),
        unseen=found.unseen,
        note=note,
    )


def _layers(flavour: Flavour, job: Job) -> list[Layer]:
    trt = package(flavour)
    inspector = open_plan(flavour, job.target).create_engine_inspector()
    return parse_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
