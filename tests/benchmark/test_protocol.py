"""The facts beside every latency, and CPU cores set and restored."""

import os

import pytest

from models.errors import ParamsError
from pipeline.benchmark.timing.protocol import pinned, protocol, protocol_lines, usable
from pipeline.core.hardware import usable_cores
from pipeline.core.params import Benchmark, WarmUp

SETTINGS = Benchmark(
    batch_sizes=[8, 1], warmup=WarmUp(), rounds=25, repeats=4, threads=None, cores=[0]
)


def test_pinning_holds_within_and_is_undone_after_an_error():
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), pinned([min(before)]):
        assert os.sched_getaffinity(0) == {min(before)}
        assert usable_cores() == 1
        raise RuntimeError
    assert os.sched_getaffinity(0) == before


def test_without_cores_nothing_is_pinned():
    with pinned(None):
        assert usable() == sorted(os.sched_getaffinity(0))


def test_cores_of_another_machine_are_refused():
    with pytest.raises(ParamsError, match=r"benchmark.cores = \[4095\]: this process may use \["):
        pinned([4095]).__enter__()


def test_every_dial_is_among_the_facts_and_in_the_words():
    facts = protocol(SETTINGS, threads=2)
    assert facts["warmup"] == SETTINGS.warmup.model_dump()
    assert (facts["rounds"], facts["repeats"], facts["threads"]) == (25, 4, 2)
    assert facts["batch_sizes"] == [1, 8]
    text = " ".join(protocol_lines(facts))
    for phrase in ("25 rounds × 4 calls", "windows of 5 calls", "within 5 %", "at most 50 calls"):
        assert phrase in text
    assert "2 threads" in text
    assert "(pinned)" in text
    assert "95 %, bootstrap over rounds" in text
