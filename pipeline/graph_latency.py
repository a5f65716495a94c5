"""Time ONNX graphs against each other on this machine, with ONNX Runtime.

The protocol is that of the benchmark (`pipeline.timing`). The graphs are not built and proven
engines: what is timed here helps to choose what becomes one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.engines import onnxruntime
from pipeline.engines.interface import Images
from pipeline.engines.machine import usable_cores
from pipeline.params import Benchmark
from pipeline.progress import progress
from pipeline.protocol import pinned
from pipeline.timing import latency, measure_interleaved, no_garbage_collection, settle, stopwatch


def graph_latencies_ms(
    graphs: Sequence[Path], images: Images, batch_size: int, settings: Benchmark
) -> list[float]:
    """Return the median duration of each graph on these images, all timed in the same rounds.

    From host memory to host memory; on CUDA where ONNX Runtime has it, else on the CPU.

    Args:
        graphs: ONNX files.
        images: normalised; repeated where the batch is larger.
        batch_size: of the one batch that every graph is timed on.
        settings: the `benchmark` section; its batch sizes do not count.

    Raises:
        ParamsError: `settings.cores` cannot be used.
        ArtifactError: a file is missing.
        BackendError: ONNX Runtime cannot open or run a graph.
    """
    batch = np.resize(images, (batch_size, *images.shape[1:]))
    with pinned(settings.cores):
        threads = settings.threads or usable_cores()
        timers = {
            number: stopwatch(onnxruntime.optimised(path, threads)(batch).run)
            for number, path in enumerate(graphs)
        }
        with no_garbage_collection():
            for timer in progress(timers.values(), "warming up"):
                settle(timer, settings.warmup)
            taken = measure_interleaved(timers, rounds=settings.rounds, repeats=settings.repeats)
    return [round(latency(durations).p50, 4) for durations in taken.values()]
