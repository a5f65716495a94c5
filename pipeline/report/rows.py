"""Bring a variant's metrics together: one row per network, and one per engine of it."""

from dataclasses import fields

from models.errors import ArtifactError
from pipeline.benchmark.records import EngineLatency
from pipeline.engines.records import BuiltEngine, ParityCheck, TypedGraph
from pipeline.plan.records import HealedLevel, Healing
from pipeline.report.metrics import VariantMetrics
from pipeline.report.records import EngineRow, NetworkRow

SPENT = ("seconds", "images_seen", "macs_spent")  # of healing


def network_rows(variant: str, metrics: VariantMetrics) -> list[NetworkRow]:
    """Return a row per level and precision, but for graphs that failed the parity chain.

    Accuracies are those of exactly the precision's ONNX bytes.

    Raises:
        ArtifactError: the metrics of two stages are of different levels.
    """
    sizes = {level.level: level for level in metrics.collapse.levels}
    if list(sizes) != [level.level for level in metrics.heal.levels]:
        raise ArtifactError(
            f"the metrics of heal and collapse of variant {variant!r} have different levels; "
            "`dvc repro` makes them anew"
        )
    return [
        _network_row(variant, metrics, level, graph, check)
        for level in metrics.heal.levels
        for graph in metrics.precision.graphs
        if (graph.level, graph.backend) == (level.level, None)
        if (check := metrics.verify.find(graph.level, "precision", graph.precision, None))
        if check.status == "passed"
    ]


def _network_row(
    variant: str,
    metrics: VariantMetrics,
    healed: HealedLevel,
    graph: TypedGraph,
    check: ParityCheck,
) -> NetworkRow:
    assert check.val_accuracy_pct is not None  # it was run: it has passed
    assert check.test_accuracy_pct is not None
    size = next(level for level in metrics.collapse.levels if level.level == healed.level)
    whole = graph.precision == "fp32"  # the PyTorch network's numbers are of this alone
    return NetworkRow(
        variant=variant,
        level=healed.level,
        precision=graph.precision,
        removed=healed.removed,
        removed_in_training=metrics.train.removed,
        replacement=healed.replacement,
        shipped=healed.shipped,
        chosen=healed.level == metrics.heal.chosen_level,
        val_accuracy_pct=check.val_accuracy_pct,
        test_accuracy_pct=check.test_accuracy_pct,
        val_accuracy_by_repair_pct=dict(healed.val_accuracy_pct.items()) if whole else {},
        healing=_spent(healed.healing) if whole else None,
        params=size.params,
        macs=size.macs,
        onnx_bytes=graph.bytes,
    )


def _spent(healing: Healing | None) -> dict[str, float] | None:
    return {name: getattr(healing, name) for name in SPENT} if healing else None


def engine_rows(metrics: VariantMetrics, networks: list[NetworkRow]) -> list[EngineRow]:
    """Return a row per engine of these networks, in their order.

    Args:
        metrics: of one variant.
        networks: its rows.
    """
    largest: dict[tuple[int, str, str], EngineLatency] = {}
    for latency in metrics.benchmark.latencies:
        key = (latency.level, latency.precision, latency.backend)
        if key not in largest or latency.batch > largest[key].batch:
            largest[key] = latency
    ratios = {one.key[1:]: one.ratio for one in metrics.benchmark.ratios}
    return [
        _engine_row(network, metrics, engine, largest, ratios)
        for network in networks
        for engine in metrics.build.engines
        if (engine.level, engine.precision) == (network.level, network.precision)
    ]


TIMES = [field.name for field in fields(EngineRow) if field.name.endswith("_ms")]


def _engine_row(
    network: NetworkRow,
    metrics: VariantMetrics,
    engine: BuiltEngine,
    largest: dict[tuple[int, str, str], EngineLatency],
    ratios: dict[tuple[int, str, str], float],
) -> EngineRow:
    check = metrics.verify.find(engine.level, "engine", engine.precision, engine.backend)
    proven = check if check and check.status == "passed" else None
    key = (engine.level, engine.precision, engine.backend)
    latency = largest.get(key)
    return EngineRow(
        variant=network.variant,
        level=engine.level,
        precision=engine.precision,
        backend=engine.backend,
        bytes=engine.bytes,
        weight_bytes=engine.weight_bytes,
        val_accuracy_pct=proven.val_accuracy_pct if proven else None,
        test_accuracy_pct=proven.test_accuracy_pct if proven else None,
        batch=latency.batch if latency else None,
        ratio=ratios.get(key),
        **{name: getattr(latency, name) if latency else None for name in TIMES},
    )
