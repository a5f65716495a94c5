"""MLflow's UI, as `make ui` starts it, in a real browser.

With ``SHOAL_SCREENSHOTS=folder`` the project of this repository is shown instead of a small one,
and what is on screen is written to that folder.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import chromium, screenshot
from places import ROOT
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as seen
from selenium.webdriver.support.wait import WebDriverWait
from stage_process import wait_until_it_answers
from tracked import (
    MLFLOWS_WARNINGS,
    client,
    run_of_the_report,
    runs_of,
    start_verb,
    write_project,
)

from stages.track import main as track

pytestmark = [*MLFLOWS_WARNINGS, pytest.mark.browser]

SCREENSHOTS = os.environ.get("SHOAL_SCREENSHOTS")
PATIENCE_S = 60  # on a busy machine; a page takes seconds
PASSING = (NoSuchElementException, StaleElementReferenceException)  # React draws anew


@dataclass(frozen=True)
class Page:
    """MLflow's UI on a project."""

    driver: Chrome
    comparison: str  # the address that `make ui` prints

    def open(self, address: str) -> None:
        # Only the part behind the # differs: without a blank page between, nothing is loaded.
        self.driver.get("about:blank")
        self.driver.get(address)

    def open_within(self, path: str) -> None:
        self.open(f"{self.comparison.partition('#')[0]}#{path}")

    def wait(self, condition, what: str = ""):
        waiting = WebDriverWait(self.driver, PATIENCE_S, ignored_exceptions=PASSING)
        return waiting.until(condition, f"not on screen: {what}")

    def shows(self, *texts: str) -> None:
        """Wait until every text is on screen."""
        for text in texts:
            within = f'//*[text()[contains(normalize-space(), "{text}")]]'
            self.wait(seen.visibility_of_any_elements_located((By.XPATH, within)), text)

    def shot(self, name: str) -> None:
        if SCREENSHOTS:
            screenshot(self.driver, ROOT / SCREENSHOTS / name)


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("shown")
    with chromium(1560, 1480) as driver, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        shutil.copy(empty_store, folder)
        if SCREENSHOTS:
            copy_the_real_project()
        else:
            write_project()
        if not Path("reports/index.html").exists():
            Path("reports/index.html").write_text("<!doctype html><h1>Which network to ship</h1>")
        track()
        process = start_verb("ui")
        try:
            process.stdout.readline()
            comparison = process.stdout.readline().split(": ")[1].strip()
            wait_until_it_answers(comparison.partition("#")[0] + "health")
            page = Page(driver, comparison)
            page.open(comparison)
            close_the_assistant(page)
            yield page
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=30)


def copy_the_real_project() -> None:
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, name)
    for name in ("metrics", "reports"):
        shutil.copytree(ROOT / name, name)
    Path("artifacts").symlink_to(ROOT / "artifacts")


def close_the_assistant(page: Page) -> None:
    """MLflow opens it once, on the first page."""
    button = (By.CSS_SELECTOR, "[data-component-id='mlflow.assistant.chat_panel.close']")
    page.wait(seen.element_to_be_clickable(button)).click()
    page.wait(seen.invisibility_of_element_located(button))


def by_accuracy() -> list[str]:
    """The names of all runs, most accurate first."""
    runs = runs_of("shoal")
    return sorted(runs, key=lambda name: -runs[name].data.metrics["accuracy_val_pct"])


def recommendation() -> dict:
    return json.loads(Path("reports/summary.json").read_text())["recommendation"]


def test_the_table_opens_on_accuracy_and_latency(ui: Page) -> None:
    ui.open(ui.comparison)
    ui.shows("accuracy_val_pct", "accuracy_test_pct", "latency_ms", "recommended")
    names = by_accuracy()
    ui.shows(*names[:4], recommendation()["reason"])
    headers = ui.driver.find_elements(By.CSS_SELECTOR, "[role='columnheader']")
    titles = [header.text for header in sorted(headers, key=lambda header: header.location["x"])]
    expected = ["accuracy_val_pct", "accuracy_test_pct", "latency_ms", "recommended"]
    assert [title for title in dict.fromkeys(titles) if title in expected] == expected
    best = runs_of("shoal")[names[0]].data.metrics
    ui.shows(f"{best['accuracy_val_pct']:g}", f"{best['latency_ms']:g}")
    ui.shot("mlflow_runs.png")


def test_the_charts_open_on_accuracy_against_latency_and_parallel_coordinates(ui: Page) -> None:
    ui.open(f"{ui.comparison}&compareRunsMode=CHART")
    ui.shows("Accuracy against latency", "latency_ms vs. accuracy_val_pct", "Parallel Coordinates")
    timed = [run for run in runs_of("shoal").values() if "latency_ms" in run.data.metrics]
    assert len(timed) >= 4
    ui.wait(lambda driver: len(points(driver)) == len(timed))
    axes = (By.CSS_SELECTOR, ".parcoords .dimension")
    ui.wait(lambda driver: len(driver.find_elements(*axes)) == 6)
    assert ui.driver.find_element(By.CSS_SELECTOR, ".parcoords canvas").size["width"] > 300
    ui.shows("removed_blocks", "size_bytes")
    ui.shot("mlflow_compare.png")


def points(driver: Chrome) -> list:
    return driver.find_elements(By.CSS_SELECTOR, ".scatterlayer .point")


def test_chosen_runs_are_compared_by_parallel_coordinates(ui: Page) -> None:
    runs = runs_of("shoal")
    chosen = [runs[name] for name in by_accuracy() if "latency_ms" in runs[name].data.metrics][:5]
    assert len({run.data.params["variant"] for run in chosen}) >= 2
    ids, experiments = (
        quote(json.dumps(values))
        for values in ([run.info.run_id for run in chosen], [chosen[0].info.experiment_id])
    )
    ui.open_within(f"/compare-runs?runs={ids}&experiments={experiments}")
    ui.shows("Comparing 5 Runs from 1 Experiment", "Parallel Coordinates Plot")
    ui.wait(seen.visibility_of_element_located((By.CSS_SELECTOR, ".js-plotly-plot .parcoords")))
    titles = ui.driver.find_elements(By.CSS_SELECTOR, ".parcoords .axis-title")
    assert [title.text for title in titles][-1] == "accuracy_test_pct"
    assert "level" in {title.text for title in titles}


def test_the_report_is_rendered(ui: Page) -> None:
    run = run_of_the_report().info
    path = f"/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/report/index.html"
    ui.open_within(path)
    ui.wait(seen.frame_to_be_available_and_switch_to_it((By.TAG_NAME, "iframe")))
    heading = ui.wait(seen.visibility_of_element_located((By.TAG_NAME, "h1")))
    assert heading.text in Path("reports/index.html").read_text(encoding="utf-8")
    ui.driver.switch_to.default_content()


def test_the_registered_model_shows_the_champion(ui: Page) -> None:
    (version,) = client().search_model_versions("name = 'shoal'")
    ui.open_within("/models/shoal")
    ui.shows("Version 1", "champion", recommendation()["chosen"]["variant"])
    ui.open_within(f"/models/shoal/versions/{version.version}")
    ui.shows(recommendation()["reason"])
