"""Meters on folders and outputs as real machines have them; what cannot be read is absent."""

import sys
from pathlib import Path

import pytest

from pipeline import meters
from pipeline.energy import energy_mj_per_image
from pipeline.engines.machine import cuda_driver
from pipeline.meters import nvml, rapl, sysfs, tegrastats
from pipeline.meters.interface import Unreadable

ORIN = (
    "11-24-2026 10:00:00 RAM 2448/7620MB (lfb 5x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [2%@1510,0%@1510,1%@1510,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305] "
    "NVDEC off NVJPG off VIC off OFA off APE 200 cpu@48.5C soc2@47.1C soc0@46.6C gpu@46.6C "
    "tj@48.5C soc1@47.3C VDD_IN {}mW/4985mW VDD_CPU_GPU_CV 518mW/518mW VDD_SOC 1476mW/1450mW\n"
)
NANO = "RAM 1490/3964MB (lfb 2x4MB) CPU@33C GPU@31.5C POM_5V_IN 2075/2075 POM_5V_CPU 166/166\n"


def put(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def test_clocks_and_temperatures_of_a_bare_machine(tmp_path):
    cpu = tmp_path / "devices/system/cpu"
    put(cpu / "cpu0/cpufreq", scaling_cur_freq=2600000)
    put(cpu / "cpu11/cpufreq", scaling_cur_freq=3100000)
    put(tmp_path / "class/thermal/thermal_zone0", type="x86_pkg_temp", temp=61000)
    put(tmp_path / "class/hwmon/hwmon1", name="k10temp", temp1_input=55250, temp2_input=1)
    assert sysfs.cpu_mhz(tmp_path) == {"cpu0": 2600.0, "cpu11": 3100.0}
    assert sysfs.temperature_c(tmp_path) == {"x86_pkg_temp": 61.0, "k10temp": 55.25}


def test_sensors_that_refuse_are_left_out_and_none_at_all_has_a_reason(tmp_path):
    zone = put(tmp_path / "class/thermal/thermal_zone0", type="gpu-thermal", temp="")
    put(tmp_path / "devices/system/cpu/cpu0/cpufreq", scaling_cur_freq=0)
    assert zone.exists()
    with pytest.raises(Unreadable, match="no temperature sensor"):
        sysfs.temperature_c(tmp_path)
    with pytest.raises(Unreadable, match="no CPU clock"):
        sysfs.cpu_mhz(tmp_path)


def test_rapl_gives_the_joules_between_start_and_stop(tmp_path):
    for number in (0, 1):
        put(
            tmp_path / f"intel-rapl:{number}",
            name=f"package-{number}",
            energy_uj=1_000_000,
            max_energy_range_uj=262_143_328_850,
        )
    put(tmp_path / "intel-rapl:0:0", name="core", energy_uj=0)  # part of package-0
    stop = rapl.start(tmp_path)
    put(tmp_path / "intel-rapl:0", energy_uj=3_500_000)
    put(tmp_path / "intel-rapl:1", energy_uj=500_000)  # the counter started anew
    assert stop() == pytest.approx({"package-0": 2.5, "package-1": 262_142.82885})


def test_counters_for_root_only_are_absent_with_the_reason(tmp_path):
    with pytest.raises(Unreadable, match="no RAPL counters"):
        rapl.start(tmp_path)
    put(tmp_path / "intel-rapl:0", name="package-0")
    (tmp_path / "intel-rapl:0/energy_uj").mkdir()  # cannot be read, even by root
    with pytest.raises(Unreadable, match="cannot be read"):
        rapl.start(tmp_path)


def test_tegrastats_rails_of_orin_and_of_nano():
    assert tegrastats.mean_watts([ORIN.format(5043), ORIN.format(7043)]) == pytest.approx(
        {"VDD_IN": 6.043, "VDD_CPU_GPU_CV": 0.518, "VDD_SOC": 1.476}
    )
    assert tegrastats.mean_watts([NANO]) == {"POM_5V_IN": 2.075, "POM_5V_CPU": 0.166}
    assert tegrastats.mean_watts(["RAM 1490/3964MB (lfb 2x4MB)"]) == {}


def fake_tegrastats(folder: Path, line: str) -> str:
    """Write a command that prints a line every 10 ms, as the tool on a Jetson does."""
    script = folder / "tegrastats"
    script.write_text(
        f"#!{sys.executable}\nimport time\nwhile True:\n"
        f"    print({line!r}, flush=True)\n    time.sleep(0.01)\n"
    )
    script.chmod(0o755)
    return str(script)


def test_energy_per_image_of_a_device_that_draws_five_watts(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.energy.SECONDS", 0.5)
    command = fake_tegrastats(tmp_path, ORIN.format(5000).strip())
    calls = []
    used = energy_mj_per_image(
        lambda: calls.append(1), 4, {"tegrastats": lambda: tegrastats.start(command)}
    )
    joules = used["VDD_IN"] * (len(calls) - 1) * 4 / 1e3  # one call was made before
    assert joules == pytest.approx(5.0 * 0.5, rel=0.2)


def test_a_tool_that_says_nothing_gives_no_energy_rather_than_none_used(tmp_path):
    stop = tegrastats.start(fake_tegrastats(tmp_path, "RAM 1490/3964MB"))
    with pytest.raises(Unreadable, match="no power rail"):
        stop()
    with pytest.raises(Unreadable, match="comes with NVIDIA Jetson"):
        tegrastats.start(str(tmp_path / "not there"))


def test_a_meter_that_fails_is_left_out():
    def broken():
        def stop():
            raise Unreadable("gone")

        return stop

    def gone():
        raise Unreadable("gone before it started")

    assert energy_mj_per_image(lambda: None, 1, {}) == {}
    meters = {"gone": gone, "broken": broken, "works": lambda: lambda: {"cpu": 1.0}}
    assert list(energy_mj_per_image(lambda: None, 1, meters)) == ["cpu"]


def test_a_run_that_fails_ends_the_meters(tmp_path):
    stopped = []

    def start():
        return lambda: stopped.append(1) or {}

    calls = iter([None])
    with pytest.raises(StopIteration):
        energy_mj_per_image(lambda: next(calls), 1, {"meter": start})
    assert stopped


def test_without_a_driver_nvml_says_so():
    if cuda_driver():
        pytest.skip("there is an NVIDIA driver")
    with pytest.raises(Unreadable, match="NVML: "):
        nvml.gpus()


def test_nvml_is_asked_by_names_that_the_package_has():
    import pynvml

    assert nvml._slowed_by(pynvml, 0) == []
    both = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    assert nvml._slowed_by(pynvml, both) == ["HwThermalSlowdown", "SwPowerCap"]
    for name in (
        *("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName"),
        *("nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage"),
        *("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTotalEnergyConsumption"),
        *("NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU"),
    ):
        assert hasattr(pynvml, name)


def test_what_this_machine_does_not_tell_is_absent_with_a_reason():
    found = meters.conditions()
    for name in ("cpu_mhz", "temperature_c", "load_1min", "gpus"):
        assert (name in found) != (name in found["absent"])
    working, absent = meters.energy_meters()
    assert set(working) | set(absent) == set(meters.METERS)
    assert not set(working) & set(absent)
    assert all(absent.values())
