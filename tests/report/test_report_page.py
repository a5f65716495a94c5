"""The report's page: what it shows, that it is safe and light, and how it behaves in a browser.

``SHOAL_SCREENSHOTS=docs pytest tests/report/test_report_page.py -k own_page``: docs/report.png.
"""

import base64
import hashlib
import json
import os
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from browser import chromium, complaints, screenshot
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from pydantic import TypeAdapter
from reported import (
    DATA,
    epoch,
    failed,
    page_of,
    summary_of,
    two_variants,
    untimed,
    variant_metrics,
)
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from pipeline.core.records import read_record
from pipeline.plan.records import DeadBlock
from pipeline.report.block_order import in_order
from pipeline.report.charts.distances import MOST_EPOCHS
from pipeline.report.failures import Failure
from pipeline.report.front import pareto_front
from pipeline.report.markdown import summary_markdown
from pipeline.report.metrics import VariantMetrics
from pipeline.report.page.page import vega
from pipeline.report.records import Summary
from pipeline.report.reports import charts

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=1'>\"&amp;{{7*7}}"
PHONE, DESKTOP = 390, 1280
POINTS = "#engines [aria-roledescription=point]"


class Page(HTMLParser):
    """The elements of a page, its text without that of styles and scripts, its charts' data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self.style, self.scripts = "", "", []
        self.feed(html)
        self.close()
        self.charts = json.loads(self.scripts.pop(0))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem:
            self.style += data
        else:
            self.text += data

    def named(self, wanted: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == wanted]

    def rows(self, chart: str) -> list[dict[str, Any]]:
        return self.charts[chart]["datasets"]["rows"]


def test_it_shows_everything_that_was_measured() -> None:
    found = two_variants()
    page = Page(page_of(found))
    assert summary_of(found).recommendation.reason in page.text
    engines = page.rows("engines")
    assert len(engines) == 16
    assert [engine["note"] for engine in engines].count("recommended") == 1
    (engine,) = [
        engine
        for engine in engines
        if (engine["variant"], engine["level"]) == ("dense", 1)
        and (engine["precision"], engine["backend"]) == ("int8", "openvino")
    ]
    assert (engine["val"], engine["test"], engine["ms"]) == (89.0, 88.5, 1.5)
    assert (engine["latency"], engine["blocks"]) == ("1.50 (95 % 1.49–1.51), p50 1.75", "a")
    depths = [(row["variant"], row["removed"], row["val"]) for row in page.rows("depths")]
    assert depths == [(v, n + (v == "anneal"), 90.5 - n) for v in found for n in (0, 1)]
    assert page.rows("depths")[1]["batch_norm"] == "90.10"
    for text in ("dense", "anneal", "9,000 train", "bag, coat", "A CPU", "onnxruntime 1.2"):
        assert text in page.text
    assert "12 passed" in page.text
    assert "the collapsed graph" in page.text
    assert page.text.count("tensorrt: not built: …") == 1
    titles = [own["title"] for _, own in page.elements if "title" in own]
    assert "layer.10: too wide" in titles
    assert "a: removed, replaced by linear" in titles
    assert "layer.2: removed in training" in titles
    assert "1 failed" not in page.text


def test_the_heat_maps_have_every_epoch_and_the_displacement() -> None:
    heat = Page(page_of(two_variants())).rows("heat")
    cells = {(row["variant"], row["block"], row["column"]): row for row in heat}
    assert cells["dense", "layer.2", "1"]["shown"] == "0.000651"
    assert cells["dense", "layer.2", "1"]["text"] == "6.5e-4"
    assert cells["dense", "a", "displ."]["value"] == 0.125
    assert cells["anneal", "layer.2", "2"]["shown"] == "none", "removed in training"
    shades = {row["value"]: row["shade"] for row in heat if row["epoch"] and row["value"]}
    assert shades[0.000651] == 0
    assert shades[0.5] == 1
    assert 0.5 < shades[0.25] < 1


def test_savings_are_those_at_the_largest_batch_with_their_intervals() -> None:
    bars = Page(page_of(two_variants())).rows("bars")
    assert len(bars) == 8
    saved, lost = bars[:2]
    assert (saved["panel"], saved["removed"]) == ("dense, fp32 on onnxruntime", "a")
    assert (saved["ms"], saved["low"], saved["high"]) == (1.0, 0.875, 1.125)
    assert saved["saving"] == "1.000 (95 % 0.875 to 1.125)"
    assert (lost["panel"], lost["ms"]) == ("dense, fp32 on openvino", -0.25)
    assert "low" not in lost


def test_the_same_metrics_give_the_same_page() -> None:
    assert page_of(two_variants()) == page_of(two_variants())


@pytest.mark.parametrize("timed", [True, False])
def test_the_charts_are_valid_vega_lite(timed: bool) -> None:
    found = two_variants()
    if not timed:
        found = {variant: untimed(own) for variant, own in found.items()}
    for spec in charts(summary_of(found), found).values():
        alt.Chart.from_dict(spec)


def test_dead_blocks_are_named_here_and_in_the_summary() -> None:
    found = two_variants()
    plan = replace(found["dense"].plan, dead=[DeadBlock("a", 0.0123)])
    found["dense"] = replace(found["dense"], plan=plan)
    assert "a: largest deviation 1.2e-02" in Page(page_of(found)).text
    text = summary_markdown(summary_of(found), found)
    assert "removed first: dense: a (largest deviation 1.2e-02)." in text
    assert "Dead" not in summary_markdown(summary_of(two_variants()), two_variants())


def test_variants_that_failed_are_shown_with_their_reason() -> None:
    failures = {"wild": Failure("train", "the loss is NaN in epoch 2")}
    text = Page(page_of(two_variants(), failures)).text
    assert "wild, stage train" in text
    assert "the loss is NaN in epoch 2" in text


def test_chains_with_a_failed_check_are_open() -> None:
    found = two_variants()
    page = Page(page_of(found | {"dense": failed(found["dense"], 6, "cos 0.1")}))
    assert "1 failed" in page.text
    assert "cos 0.1" in page.text
    opened = [own["data-variant"] for own in page.named("details") if "open" in own]
    assert opened == ["dense"]


def test_what_disturbed_the_timing_stands_above_all() -> None:
    found = {
        name: replace(own, benchmark=replace(own.benchmark, unsettled=["a <fan> failed"]))
        for name, own in two_variants().items()
    }
    text = Page(page_of(found)).text
    assert "Latencies are unsettled" in text
    assert "a <fan> failed" in text
    assert "unsettled" not in Page(page_of(two_variants())).text


def test_without_timings_or_variants_there_still_is_a_page() -> None:
    found = {variant: untimed(own) for variant, own in two_variants().items()}
    text = Page(page_of(found)).text
    assert "No engine was timed." in text
    assert "nothing to recommend" in text
    failures = {"wild": Failure("train", "no such model")}
    assert "no such model" in Page(page_of({}, failures)).text


def hostile_page() -> str:
    """Return a page on which everything that people can name is an attack."""
    written = json.dumps({variant: asdict(own) for variant, own in two_variants().items()})
    for name in ("a", "layer.2", "layer.10", "not built: …", "A CPU", "identity"):
        written = written.replace(json.dumps(name), json.dumps(f"{name}{HOSTILE}"))
    read = TypeAdapter(dict[str, VariantMetrics]).validate_json(written)
    found = {f"{variant}{HOSTILE}": own for variant, own in read.items()}
    failures = {f"wild{HOSTILE}": Failure("train", HOSTILE)}
    return page_of(found, failures, replace(DATA, classes=[HOSTILE, "coat"]), f"shoal{HOSTILE}")


def test_whatever_people_name_stays_text() -> None:
    safe, attacked = (
        Page(page_of(two_variants(), {"wild": Failure("", "")})),
        Page(hostile_page()),
    )
    assert [tag for tag, _ in attacked.elements] == [tag for tag, _ in safe.elements]
    assert not [own for _, own in attacked.elements if any(name.startswith("on") for name in own)]
    assert (attacked.scripts, attacked.style) == (safe.scripts, safe.style)
    assert attacked.text.count(HOSTILE) > 30
    assert f"dense{HOSTILE} level 1" in attacked.text


@pytest.mark.parametrize("make", [lambda: page_of(two_variants()), hostile_page])
def test_nothing_comes_from_outside(make) -> None:
    page = Page(make())
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "a"} & {
        tag for tag, _ in page.elements
    }
    for tag, own in page.elements:
        assert "src" not in own, tag
        assert own.get("href", "#").startswith("#"), tag
    bundle, own_script = page.scripts
    assert bundle == vega()
    assert not re.search(r"url\(|@import|https?:|fetch|XMLHttp|import\(", own_script + page.style)
    policies = [own for own in page.named("meta") if "http-equiv" in own]
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in page.scripts
    ]
    assert [own["content"] for own in policies] == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'"
    ]


def test_a_long_training_is_shown_at_some_of_its_epochs() -> None:
    found = variant_metrics()
    epochs = [epoch(number, {"a": 0.0, "layer.2": 1 / number}) for number in range(1, 301)]
    found = replace(found, train=replace(found.train, epochs=epochs))
    html = page_of({"dense": found})
    heat = Page(html).rows("heat")
    shown = [row["epoch"] for row in heat if row["block"] == "layer.2" and row["epoch"]]
    assert (len(shown), shown[0], shown[-1]) == (MOST_EPOCHS, 1, 300)
    assert {row["text"] for row in heat if row["epoch"]} == {""}, "no room"
    assert all(row["shade"] == 0 for row in heat if row["value"] == 0)
    assert len(html) - len(vega()) < 90_000


def test_it_stays_light_with_many_variants() -> None:
    html = page_of({f"variant {number}": variant_metrics(number / 10) for number in range(50)})
    assert len(vega().encode()) < 1_000_000
    assert len(html.encode()) - len(vega().encode()) < 800_000


@given(st.sets(st.sampled_from([f"layer{i}.{j}" for i in range(1, 4) for j in range(12)])))
def test_removed_blocks_are_placed_where_they_were(removed: set[str]) -> None:
    order = [f"layer{i}.{j}" for i in range(1, 4) for j in range(12)]
    assert in_order([name for name in order if name not in removed], removed) == order


# In a browser


@pytest.fixture(scope="module")
def browser():
    with chromium(DESKTOP, 900) as driver:
        yield driver


def open_page(driver: Chrome, folder: Path, html: str, width: int = DESKTOP) -> None:
    (folder / "index.html").write_text(html, encoding="utf-8")
    open_file(driver, folder / "index.html", width)


def open_file(driver: Chrome, path: Path, width: int, height: int = 900) -> None:
    """Open a page as a screen of that width shows it; a narrow one as a phone does."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    driver.get(path.resolve().as_uri())


def shown(driver: Chrome, selector: str) -> list:
    return [
        found for found in driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()
    ]


def chart(driver: Chrome, name: str) -> None:
    """Wait until a chart is drawn, which it is once it is near the screen."""
    driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", name)
    wait = WebDriverWait(driver, 60)
    wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, f"#{name} svg g.root"))


def data_of(driver: Chrome, selector: str) -> list[dict[str, Any]]:
    """Return the rows behind the marks that are drawn."""
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.__data__.datum)"
    return driver.execute_script(script, selector)


def front_of(driver: Chrome) -> list[tuple[str, float, float]]:
    """Return the engines through which the front is drawn, by panel."""
    script = """
        const lines = [...document.querySelectorAll("#engines g.child_layer_0_marks path")];
        return lines.flatMap((line) => line.__data__.mark.items.map(({ datum }) => datum));
    """
    return sorted((row["backend"], row["ms"], row["val"]) for row in driver.execute_script(script))


def computed_front(summary: Summary, *variants: str) -> list[tuple[str, float, float]]:
    engines = pareto_front(engine for engine in summary.timed if engine.variant in variants)
    return [(engine.backend, engine.latency_ms, engine.val_accuracy_pct) for engine in engines]


def eventually(condition) -> None:
    WebDriverWait(None, 30).until(lambda _: condition())


def tooltip(driver: Chrome) -> str | None:
    tips = shown(driver, "#vg-tooltip-element")
    return tips[0].text if tips else None


@pytest.mark.browser
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_charts_are_there_and_fit(browser: Chrome, tmp_path: Path, width: int) -> None:
    open_page(browser, tmp_path, page_of(two_variants()), width)
    for name, marks, count in (
        ("engines", "[aria-roledescription=point]", 16),
        ("depths", "[aria-roledescription=point]", 4),
        ("heat", "g.child_layer_1_marks path", 10),
        ("bars", "g.child_layer_0_marks path", 8),
    ):
        chart(browser, name)
        drawn = browser.find_element(By.CSS_SELECTOR, f"#{name} svg")
        assert drawn.size["width"] > 0.7 * width
        assert drawn.size["height"] > 150
        assert len(browser.find_elements(By.CSS_SELECTOR, f"#{name} {marks}")) == count
    assert all(cell.size["height"] > 5 for cell in shown(browser, ".strips .cell"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert complaints(browser) == []


@pytest.mark.browser
def test_a_point_explains_itself(browser: Chrome, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_of(two_variants()), PHONE)
    chart(browser, "engines")
    assert tooltip(browser) is None
    first, *_, last = browser.find_elements(By.CSS_SELECTOR, POINTS)
    ActionChains(browser).move_to_element(first).perform()
    eventually(lambda: tooltip(browser))
    assert "dense level 0, fp32 on onnxruntime" in tooltip(browser)
    assert "2.00 (95 % 1.99–2.01)" in tooltip(browser)
    browser.execute_script("arguments[0].focus()", last)
    assert "anneal level 1, int8 on openvino" in tooltip(browser)
    assert last.get_attribute("aria-label").startswith("anneal level 1, int8 on openvino: 89.00 %")
    tip = browser.find_element(By.ID, "vg-tooltip-element").rect
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= PHONE
    last.send_keys(Keys.ESCAPE)
    assert tooltip(browser) is None


@pytest.mark.browser
def test_a_click_on_a_name_filters_and_the_front_follows(browser: Chrome, tmp_path: Path) -> None:
    found = two_variants()
    summary = summary_of(found)
    open_page(browser, tmp_path, page_of(found))
    chart(browser, "engines")
    assert front_of(browser) == computed_front(summary, *found)
    dense = browser.find_element(By.CSS_SELECTOR, ".chip[value=dense]")
    dense.click()
    eventually(lambda: {row["variant"] for row in data_of(browser, POINTS)} == {"anneal"})
    assert [card.text.split()[0] for card in shown(browser, "#networks .card")] == ["anneal"]
    assert front_of(browser) == computed_front(summary, "anneal")
    chart(browser, "bars")
    bars = data_of(browser, "#bars g.child_layer_0_marks path")
    assert {row["variant"] for row in bars} == {"anneal"}, "drawn later, filtered all the same"
    dense.click()
    eventually(lambda: len(data_of(browser, POINTS)) == 16)
    assert front_of(browser) == computed_front(summary, *found)
    for chip in ("int8", "openvino"):
        browser.find_element(By.CSS_SELECTOR, f".chip[value={chip}]").click()
    eventually(lambda: len(data_of(browser, POINTS)) == 4)
    int8 = browser.find_element(By.CSS_SELECTOR, ".chip[value=int8]")
    ActionChains(browser).double_click(int8).perform()
    eventually(lambda: {row["precision"] for row in data_of(browser, POINTS)} == {"int8"})
    assert complaints(browser) == []


@pytest.mark.browser
def test_hostile_names_do_nothing_in_a_browser(browser: Chrome, tmp_path: Path) -> None:
    open_page(browser, tmp_path, hostile_page(), PHONE)
    for name in ("bars", "heat", "engines"):
        chart(browser, name)
    chip = next(chip for chip in shown(browser, ".chip") if "dense" in chip.text)
    assert HOSTILE in chip.text
    chip.click()
    eventually(lambda: len(data_of(browser, POINTS)) == 8)
    point = browser.find_element(By.CSS_SELECTOR, POINTS)
    ActionChains(browser).move_to_element(point).perform()
    eventually(lambda: tooltip(browser))
    assert "window.hurt=1" in tooltip(browser)
    assert browser.execute_script("return window.hurt") is None
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    assert complaints(browser) == []


@pytest.mark.browser
def test_the_page_follows_the_width_of_its_window(browser: Chrome, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_of(two_variants()))
    chart(browser, "engines")
    screen = {"width": 700, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    svg = "return document.querySelector('#engines svg')?.clientWidth ?? 999"
    eventually(lambda: browser.execute_script(svg) <= 700)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 700


@pytest.mark.browser
def test_the_project_s_own_page_recommends_what_its_summary_does(browser: Chrome) -> None:
    summary = read_record(ROOT / "reports" / "summary.json", Summary)
    open_file(browser, ROOT / "reports" / "index.html", PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    open_file(browser, ROOT / "reports" / "index.html", DESKTOP, height=1290)
    on_screen = browser.find_element(By.ID, "recommendation").text
    assert on_screen == summary.recommendation.reason
    chart(browser, "engines")
    assert len(data_of(browser, POINTS)) == len(summary.timed)
    assert complaints(browser) == []
    if "SHOAL_SCREENSHOTS" in os.environ:
        browser.execute_script("scrollTo(0, 0)")
        screenshot(browser, Path(os.environ["SHOAL_SCREENSHOTS"], "report.png"))
