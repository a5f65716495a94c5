"""Time ONNX graphs against each other on this machine, with ONNX Runtime.

The protocol is that of the benchmark (`pipeline.benchmark.timing.interleaved`). The graphs are not
built and proven engines: what is timed here helps to choose what becomes one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.benchmark.timing.confidence import quiet
from pipeline.benchmark.timing.interleaved import stopwatch, time_in_turn
from pipeline.benchmark.timing.protocol import pinned
from pipeline.core.arrays import Images
from pipeline.core.hardware import usable_cores
from pipeline.core.params import Benchmark
from pipeline.export.session import bound


def graph_latencies_ms(
    graphs: Sequence[Path], images: Images, batch_size: int, settings: Benchmark
) -> list[float]:
    """Return the quiet latency of each graph on these images, all timed in the same rounds.

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
            number: stopwatch(bound(path, batch, threads)) for number, path in enumerate(graphs)
        }
        taken = time_in_turn(timers, settings)
    return [round(quiet(timed.durations), 4) for timed in taken.values()]
