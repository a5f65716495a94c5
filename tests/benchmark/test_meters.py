"""What meters read, and what this machine does not offer: absent with the reason, never zero."""

import subprocess
import sys
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import psutil
import pytest
from places import ROOT
from zeus import device
from zeus.device.cpu import rapl
from zeus.device.cpu.common import ZeusCPUNoPermissionError

from pipeline.benchmark import conditions, energy
from pipeline.benchmark.records import EngineKey
from pipeline.core.hardware import cuda_driver

Clock = namedtuple("Clock", "current")


def test_clocks_and_temperatures_of_a_bare_machine(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_freq", lambda percpu: [Clock(2600.0), Clock(3100.0)])
    sensors = {"k10temp": [Clock(55.25), Clock(1.0)], "silent": []}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    found = conditions.conditions()
    assert found["cpu_mhz"] == {"cpu0": 2600.0, "cpu1": 3100.0}
    assert found["temperature_c"] == {"k10temp": 55.25}


def raises(percpu):
    raise NotImplementedError("can't find current frequency file")


@pytest.mark.parametrize("cpu_freq", [raises, lambda percpu: [Clock(0.0)], lambda percpu: None])
def test_what_this_machine_does_not_offer_is_absent_with_a_reason(monkeypatch, cpu_freq):
    monkeypatch.setattr(psutil, "cpu_freq", cpu_freq)
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)  # as on Windows
    found = conditions.conditions()
    for name in ("cpu_mhz", "temperature_c"):
        assert name not in found
        assert found["absent"][name] == "the system shows none, as many virtual machines do"
    assert found["load_1min"] >= 0
    assert ("gpus" in found) != ("gpus" in found["absent"])


def test_without_a_driver_nvml_says_so():
    if cuda_driver():
        pytest.skip("there is an NVIDIA driver")
    assert conditions.gpus().startswith("NVML: ")


def test_without_nvml_the_reason_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert conditions.gpus() == "nvidia-ml-py is not installed; pip install '.[nvml]'"


def test_nvml_is_asked_by_names_that_the_package_has():
    import pynvml

    assert conditions.slowed_by(pynvml, 0) == []
    both = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    assert conditions.slowed_by(pynvml, both) == ["HwThermalSlowdown", "SwPowerCap"]
    for name in (
        *("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName"),
        *("nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage"),
        *("nvmlDeviceGetCurrentClocksEventReasons", "NVML_TEMPERATURE_GPU"),
        *("NVML_CLOCK_SM", "NVML_CLOCK_MEM"),
    ):
        assert hasattr(pynvml, name)


class Two(list):
    """What zeus offers of two GPUs or CPU packages, with counters that were read from a file."""

    def get_total_energy_consumption(self, index):
        return self[index]


def test_counters_are_read_by_what_zeus_offers(monkeypatch):
    monkeypatch.setattr(device, "get_gpus", lambda: Two([5_000, 7_000]))
    monkeypatch.setattr(device, "get_cpus", lambda: Two([SimpleNamespace(cpu_mj=2.5)]))
    from zeus.device.soc.jetson import JetsonMeasurement

    rails = JetsonMeasurement(cpu_energy_mj=1.0, gpu_energy_mj=None, total_energy_mj=4.0)
    jetson = SimpleNamespace(get_total_energy_consumption=lambda: rails)
    monkeypatch.setattr(device, "get_soc", lambda: jetson)
    mj, absent = energy.readings()
    assert mj == {"gpu0": 5e3, "gpu1": 7e3, "cpu0": 2.5, "soc cpu": 1.0, "soc total": 4.0}
    assert absent == {}


def test_a_meter_that_cannot_be_read_does_not_cost_the_others(monkeypatch):
    def for_root_only():
        raise ZeusCPUNoPermissionError("RAPL requires root privileges")

    monkeypatch.setattr(device, "get_gpus", lambda: Two([5_000]))
    monkeypatch.setattr(device, "get_cpus", for_root_only)
    mj, absent = energy.readings()
    assert mj == {"gpu0": 5e3}
    assert absent["cpu"] == "RAPL requires root privileges"
    assert absent["soc"]


def test_without_the_extra_the_reason_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus.exception", None)
    mj, absent = energy.readings()
    assert mj == {}
    assert set(absent) == {"gpu", "cpu", "soc"}
    assert absent["gpu"] == "zeus is not installed; pip install '.[energy]'"


ENGINES = [EngineKey("dense", level, "fp32", "onnxruntime") for level in (0, 1)]


def measured(monkeypatch, *answers):
    """Measure with counters that read so; return that and the calls made."""
    remaining = iter(answers)
    monkeypatch.setattr(energy, "readings", lambda: next(remaining))
    monkeypatch.setattr(energy, "SECONDS", 0.01)
    monkeypatch.setattr(energy, "STARTED_S", 0.0)
    calls = dict.fromkeys(ENGINES, 0)

    def run(one):
        calls[one] += 1

    return energy.energy_per_image({one: partial(run, one) for one in ENGINES}, 4), calls


def test_energy_per_image_is_what_a_counter_moved_by(monkeypatch):
    readings = [({"gpu0": mj, "cpu0": 3.0}, {"soc": "none"}) for mj in (1e6, 1e6, 2e6, 2e6, 5e6)]
    (found, absent), calls = measured(monkeypatch, *readings)
    assert absent == {"soc": "none"}
    assert [(one.key, one.meter) for one in found] == [(one.key, "gpu0") for one in ENGINES]
    used = [
        one.mj_per_image * 4 * (calls[key] - 1) for one, key in zip(found, ENGINES, strict=True)
    ]
    assert used == pytest.approx([1e6, 3e6], rel=1e-3)  # one call was made before


def test_counters_that_nothing_reads_are_absent(monkeypatch):
    (found, absent), calls = measured(monkeypatch, ({}, {"gpu": "no GPU"}))
    assert (found, absent, sum(calls.values())) == ([], {"gpu": "no GPU"}, 0)


def test_the_stage_that_processes_of_zeus_import_again_is_light():
    code = "import sys, stages.benchmark; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_zeus_reads_the_counters_of_linux(tmp_path, monkeypatch):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "energy_uj").write_text("2500\n")
    (package / "max_energy_range_uj").write_text("262143328850\n")
    monkeypatch.setattr(rapl, "RAPL_DIR", str(tmp_path))
    monkeypatch.setattr(rapl, "rapl_is_available", lambda: True)  # else it keeps its first answer
    cpus = rapl.RAPLCPUs()
    monkeypatch.setattr(device, "get_cpus", lambda: cpus)
    try:
        assert energy.readings()[0]["cpu0"] == 2.5
    finally:
        cpus.cpus[0].rapl_file.wraparound_tracker._stop()
