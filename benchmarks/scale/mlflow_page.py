"""How long MLflow's UI takes to show a folder's runs in a real browser.

    python -m benchmarks.scale.stages --into hundred
    python -m benchmarks.scale.mlflow_page hundred

Needs chromium and its driver. Each page is opened three times; the first is the browser's first.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120
SHOWN = {  # what is on the page when it is usable
    "table": ("", "return document.body.innerText.includes('-l0-')"),
    "charts": ("&compareRunsMode=CHART", "return document.querySelector('svg.main-svg') !== null"),
}


def main() -> None:
    """Print the seconds until each page shows runs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    with server(parser.parse_args().folder) as address, browser() as driver:
        for name, (query, shown) in SHOWN.items():
            took = [seconds(driver, address + query, shown) for _ in range(3)]
            print(f"{name}: {', '.join(f'{each:.1f}' for each in took)} s", flush=True)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Yield the address of the comparison, served as `make ui` does."""
    command = [sys.executable, "-m", "pipeline", "ui"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        _, comparison = (process.stdout.readline() for _ in range(2))
        address = comparison.split(": ")[1].strip()
        wait_for(lambda: answers(address.partition("#")[0] + "health"))
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)


def answers(address: str) -> bool:
    """Tell whether a server is there."""
    try:
        with urllib.request.urlopen(address):
            return True
    except OSError:
        return False


@contextmanager
def browser() -> Iterator[Chrome]:
    """Yield a browser without a window."""
    options = ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1560,1480")
    driver = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def seconds(driver: Chrome, address: str, shown: str) -> float:
    """Return how long it takes from opening an address until a script finds what it looks for."""
    driver.get("about:blank")  # only what is behind the # differs: else nothing is loaded
    start = time.perf_counter()
    driver.get(address)
    wait_for(lambda: driver.execute_script(shown))
    return time.perf_counter() - start


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once a condition holds.

    Raises:
        TimeoutError: it does not for two minutes.
    """
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"nothing within {PATIENCE_S} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
