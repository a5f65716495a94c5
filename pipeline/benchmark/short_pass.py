"""The short pass: every engine in turn with the reference alone, to see which are worth more.

With many variants, an engine that is slower and less accurate than another beyond the noise needs
no exact latency. One engine and its backend's reference are open at a time, so that memory does not
grow with their number.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.benchmark.proven_engines import ProvenEngine
from pipeline.benchmark.records import EngineRatio, Interval
from pipeline.benchmark.savings import reference
from pipeline.benchmark.timing.confidence import quiet, ratio_interval
from pipeline.benchmark.timing.interleaved import stopwatch, time_in_turn
from pipeline.benchmark.timing.protocol import pinned
from pipeline.core.arrays import Images
from pipeline.core.hardware import usable_cores
from pipeline.core.params import Benchmark
from pipeline.core.progress import progress
from pipeline.engines.backends.registry import BACKENDS

ROUNDS = 5

Ratios = Mapping[ProvenEngine, EngineRatio]


def ratios(engines: Sequence[ProvenEngine], images: Images, settings: Benchmark) -> Ratios:
    """Return how long each engine takes for the largest batch, against its backend's reference.

    Args:
        engines: the first of a backend at level 0 in fp32 is its reference.
        images: normalised; repeated where the batch is larger.
        settings: how to time; of its rounds, at most `ROUNDS`.

    Raises:
        ParamsError: `settings.cores` cannot be used.
        BackendError: an engine cannot be opened or run though it could when it was verified.
    """
    batch = np.resize(images, (settings.batch_sizes[-1], *images.shape[1:]))
    short = settings.model_copy(update={"rounds": min(ROUNDS, settings.rounds)})
    found: dict[ProvenEngine, EngineRatio] = {}
    with pinned(settings.cores):
        threads = settings.threads or usable_cores()
        for one in progress(engines, "short pass", unit="engine"):
            first = reference(engines, one.backend)
            load = BACKENDS[one.backend].load
            opened = {each: load(each.engine, threads) for each in (one, first)}
            timers = {each: stopwatch(engine(batch).run) for each, engine in opened.items()}
            timed = time_in_turn(timers, short)
            own, base = timed[one].durations, timed[first].durations
            ratio = round(quiet(own) / quiet(base), 4)
            found[one] = EngineRatio(*one.key, first.network, ratio, ratio_interval(own, base))
    return found


def near_the_front(found: Ratios) -> list[ProvenEngine]:
    """Return the engines that may be on the front of their backend, and its reference.

    Left out is what another on the same backend beats: as accurate on validation, and faster
    beyond the noise of both.
    """
    kept = []
    for one, own in found.items():
        here = [(other, of) for other, of in found.items() if other.backend == one.backend]
        beaten = any(
            other.val_accuracy_pct >= one.val_accuracy_pct and _ends(of)[1] < _ends(own)[0]
            for other, of in here
        )
        if not beaten or one == reference(found, one.backend):
            kept.append(one)
    return kept


def _ends(of: EngineRatio) -> Interval:
    return of.ratio_ci or (of.ratio, of.ratio)
