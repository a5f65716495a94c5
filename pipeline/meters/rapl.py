"""Energy of the CPU packages by RAPL, Intel's and AMD's counters, from Linux's powercap."""

from collections.abc import Callable
from pathlib import Path

from pipeline.meters.interface import Unreadable

POWERCAP = Path("/sys/class/powercap")


def start(powercap: Path = POWERCAP) -> Callable[[], dict[str, float]]:
    """Read the packages' counters now; the function returned gives the joules used since then."""
    domains = sorted(powercap.glob("intel-rapl:[0-9]")) + sorted(
        powercap.glob("intel-rapl:[0-9][0-9]")
    )
    if not domains:
        raise Unreadable("no RAPL counters under /sys/class/powercap")
    before = {domain: _microjoules(domain / "energy_uj") for domain in domains}

    def stop() -> dict[str, float]:
        return {_name(domain): _used(domain, before[domain]) for domain in domains}

    return stop


def _used(domain: Path, before: int) -> float:
    used = _microjoules(domain / "energy_uj") - before
    if used < 0:  # the counter has started anew
        used += _microjoules(domain / "max_energy_range_uj")
    return used / 1e6


def _name(domain: Path) -> str:
    return (domain / "name").read_text(encoding="ascii").strip()


def _microjoules(file: Path) -> int:
    try:
        return int(file.read_text(encoding="ascii"))
    except PermissionError as e:
        raise Unreadable(f"{file} can be read by root only; chmod a+r lets it be read") from e
    except (OSError, ValueError) as e:
        raise Unreadable(f"{file} cannot be read: {e}") from e
