"""The report's page: what it shows, that it is safe and light, and how it behaves in a browser.

``SHOAL_SCREENSHOTS=docs pytest tests/test_report_page.py -k own_page`` makes docs/report.png anew.
"""

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import chromium, complaints, screenshot
from hypothesis import given
from hypothesis import strategies as st
from reported import DATA, page_of, two_variants, variant_metrics
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from pipeline.choice import choose
from pipeline.page.heat import MOST_EPOCHS
from pipeline.page.scales import linear_axis, ratio_axis
from pipeline.page.strips import in_order
from pipeline.params import Choose
from pipeline.report import summary_rows
from pipeline.summary_tables import summary_markdown

ROOT = Path(__file__).parent.parent
HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=1'>\"&amp;{{7*7}}"
PHONE, DESKTOP = 390, 1280


class Page(HTMLParser):
    """The elements of a page, and its text without that of styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self.raw = "", dict.fromkeys(("style", "script"), "")
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.raw[self.cdata_elem] += data
        else:
            self.text += data

    def named(self, wanted: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == wanted]

    def classed(self, wanted: str) -> list[dict[str, str]]:
        return [own for _, own in self.elements if wanted in own.get("class", "").split()]


def test_it_shows_everything_that_was_measured() -> None:
    found = two_variants()
    page = Page(page_of(found))
    rows = [row for variant, own in found.items() for row in summary_rows(variant, own)]
    assert choose(rows, Choose()).reason in page.text
    labels = [own["aria-label"] for own in page.classed("point")]
    assert (
        "dense level 1, int8 on openvino\n89.00 % on validation, 88.50 % on test\n"
        "1.50 ms\nout: a" in labels
    )
    assert sum(" on openvino" in label or " on onnxruntime" in label for label in labels) == 16
    assert sum("recommended" in label for label in labels) == 1
    for text in ("dense", "anneal", "9,000 train", "bag, coat", "A CPU", "onnxruntime 1.2"):
        assert text in page.text
    assert "4 passed" in page.text
    assert page.text.count("tensorrt: not built: …") == 1
    titles = [own["title"] for _, own in page.elements if "title" in own]
    assert "layer.10: too wide" in titles
    assert "a: out, replaced by linear" in titles
    assert "layer.2: went in training" in titles
    assert "layer.2, epoch 1, distance: 0.000651" in titles
    assert "6.5e-4" in page.text
    assert "a, displacement: 0.125" in titles
    assert "layer.2, epoch 2, distance: none" in titles
    assert "level 1: 1.000 ms, 95 % between 0.875 and 1.125" in titles
    assert "level 1: -0.250 ms" in titles
    assert "1 failed" not in page.text


def test_the_same_metrics_give_the_same_page() -> None:
    assert page_of(two_variants()) == page_of(two_variants())


def test_dead_blocks_are_named_here_and_in_the_summary() -> None:
    found = two_variants()
    found["dense"]["plan"]["dead"] = {"a": {"how": "proven", "largest_deviation": 0.0}}
    assert "a: proven" in Page(page_of(found)).text
    rows = summary_rows("dense", found["dense"])
    assert "go first: dense: a (proven)." in summary_markdown(rows, found)
    assert "Dead" not in summary_markdown(rows, two_variants())


def test_variants_that_failed_are_shown_with_their_reason() -> None:
    failures = {"wild": {"stage": "train", "reason": "the loss is NaN in epoch 2"}}
    text = Page(page_of(two_variants(), failures)).text
    assert "wild, stage train" in text
    assert "the loss is NaN in epoch 2" in text


def test_rungs_that_failed_are_open_to_see() -> None:
    found = two_variants()
    found["dense"]["verify"]["levels"][1]["rungs"][1] |= {"status": "failed", "reason": "cos 0.1"}
    page = Page(page_of(found))
    assert "1 failed" in page.text
    assert "cos 0.1" in page.text
    opened = [own["data-variant"] for own in page.named("details") if "open" in own]
    assert opened == ["dense"]


def test_different_machines_are_told_apart() -> None:
    found = two_variants()
    found["anneal"]["benchmark"]["target"] = found["dense"]["benchmark"]["target"] | {"cpu": "B"}
    text = Page(page_of(found)).text
    assert "different machines" in text
    assert "Machine: dense" in text
    assert "different machines" not in Page(page_of(two_variants())).text


def test_without_timings_or_variants_there_still_is_a_page() -> None:
    found = two_variants()
    for own in found.values():
        for level in own["benchmark"]["levels"]:
            level |= {"latency_ms": {}, "saved_ms": {}}
    text = Page(page_of(found)).text
    assert "No engine was timed." in text
    assert "nothing to recommend" in text
    failures = {"wild": {"stage": "train", "reason": "no such model"}}
    assert "no such model" in Page(page_of({}, failures)).text


def hostile_page() -> str:
    """Return a page on which everything that people can name is an attack."""
    written = json.dumps(two_variants())
    for name in ("a", "layer.2", "layer.10", "not built: …", "A CPU", "identity"):
        written = written.replace(json.dumps(name), json.dumps(f"{name}{HOSTILE}"))
    found = {f"{variant}{HOSTILE}": own for variant, own in json.loads(written).items()}
    failures = {f"wild{HOSTILE}": {"stage": "train", "reason": HOSTILE}}
    return page_of(found, failures, DATA | {"classes": [HOSTILE, "coat"]}, f"shoal{HOSTILE}")


def test_whatever_people_name_stays_text() -> None:
    safe, attacked = (
        Page(page_of(two_variants(), {"wild": {"stage": "", "reason": ""}})),
        Page(hostile_page()),
    )
    assert [tag for tag, _ in attacked.elements] == [tag for tag, _ in safe.elements]
    assert not [own for _, own in attacked.elements if any(name.startswith("on") for name in own)]
    assert attacked.raw == safe.raw
    assert attacked.text.count(HOSTILE) > 30
    assert f"dense{HOSTILE} level 0" in attacked.text


@pytest.mark.parametrize("make", [lambda: page_of(two_variants()), hostile_page])
def test_nothing_comes_from_outside(make) -> None:
    page = Page(make())
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "a"} & {
        tag for tag, _ in page.elements
    }
    for tag, own in page.elements:
        assert "src" not in own, tag
        assert own.get("href", "#").startswith("#"), tag
    assert not re.search(
        r"url\(|@import|https?:|fetch|XMLHttp|import\(", "".join(page.raw.values())
    )
    policies = [own for own in page.named("meta") if "http-equiv" in own]
    digest = base64.b64encode(hashlib.sha256(page.raw["script"].encode()).digest()).decode()
    assert [own["content"] for own in policies] == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    ]


def test_a_long_training_is_shown_at_some_of_its_epochs() -> None:
    found = variant_metrics()
    found["train"]["epochs"] = [
        {"epoch": epoch, "distances": {"a": 0.0, "layer.2": 1 / epoch}} for epoch in range(1, 301)
    ]
    html = page_of({"dense": found})
    assert f"{MOST_EPOCHS} of 300 epochs" in html
    assert "layer.2, epoch 1, distance: 1" in html
    assert "layer.2, epoch 300, distance: 0.00333" in html
    assert len(html) < 60_000


def test_it_stays_light_with_many_variants() -> None:
    html = page_of({f"variant {number}": variant_metrics(number / 10) for number in range(50)})
    assert len(html.encode()) < 500_000


@given(st.sets(st.sampled_from([f"layer{i}.{j}" for i in range(1, 4) for j in range(12)])))
def test_blocks_that_went_are_put_back_where_they_were(gone: set[str]) -> None:
    order = [f"layer{i}.{j}" for i in range(1, 4) for j in range(12)]
    assert in_order([name for name in order if name not in gone], gone) == order


POSITIVE = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=9)


@given(POSITIVE, st.sampled_from([linear_axis, ratio_axis]))
def test_an_axis_holds_its_values_in_their_order(values: list[float], make) -> None:
    axis = make(values)
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 < place < 100 for place in places)
    assert [tick.at for tick in axis.ticks] == sorted(tick.at for tick in axis.ticks)
    assert 1 <= len(axis.ticks) <= 12
    for tick in axis.ticks:
        assert axis.at(float(tick.text)) == pytest.approx(tick.at, abs=0.5)


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


def stairs(driver: Chrome) -> list[tuple[str, ...]]:
    """Return the ends of the front's lines that have a length."""
    ends = [
        tuple(f"{float(line.get_attribute(name)[:-1]):.2f}" for name in ("x1", "y1", "x2", "y2"))
        for line in driver.find_elements(By.CSS_SELECTOR, "#front line")
    ]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in ends if (x1, y1) != (x2, y2)]


def tooltip(driver: Chrome) -> str | None:
    tip = driver.find_element(By.ID, "tip")
    return tip.text if tip.is_displayed() else None


@pytest.mark.browser
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_plots_are_there_and_fit(browser: Chrome, tmp_path: Path, width: int) -> None:
    open_page(browser, tmp_path, page_of(two_variants()), width)
    assert complaints(browser) == []
    for plot in ("#engines", "#depths"):
        size = browser.find_element(By.CSS_SELECTOR, plot).size
        assert size["width"] > 0.7 * width
        assert size["height"] > 200
        assert len(shown(browser, f"{plot} .point")) == (16 if plot == "#engines" else 4)
    for part in (".strips .cell", ".heat td", ".bars .track i"):
        assert all(cell.size["height"] > 5 for cell in shown(browser, part)), part
        assert shown(browser, part), part
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width


@pytest.mark.browser
def test_a_point_explains_itself(browser: Chrome, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_of(two_variants()), PHONE)
    assert tooltip(browser) is None
    first, *_, last = shown(browser, "#engines .point")
    ActionChains(browser).move_to_element(first).perform()
    assert tooltip(browser) == first.get_attribute("aria-label")
    browser.execute_script("arguments[0].focus()", last)
    assert tooltip(browser) == last.get_attribute("aria-label")
    tip = browser.find_element(By.ID, "tip").rect
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= PHONE
    last.send_keys(Keys.ESCAPE)
    assert tooltip(browser) is None


@pytest.mark.browser
def test_a_click_on_a_name_filters_and_the_front_follows(browser: Chrome, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_of(two_variants()))
    drawn = stairs(browser)
    dense = browser.find_element(By.CSS_SELECTOR, ".chip[value=dense]")
    dense.click()
    assert {point.get_attribute("data-variant") for point in shown(browser, ".point")} == {"anneal"}
    assert [card.text.split()[0] for card in shown(browser, "#networks .card")] == ["anneal"]
    assert stairs(browser) != drawn
    dense.click()
    assert len(shown(browser, "#engines .point")) == 16
    assert stairs(browser) == drawn, "as the report drew it"
    for chip in ("int8", "openvino"):
        browser.find_element(By.CSS_SELECTOR, f".chip[value={chip}]").click()
    assert len(shown(browser, "#engines .point")) == 4
    fp32 = browser.find_element(By.CSS_SELECTOR, ".chip[value=int8]")
    ActionChains(browser).double_click(fp32).perform()
    points = shown(browser, "#engines .point")
    assert {point.get_attribute("data-precision") for point in points} == {"int8"}
    assert complaints(browser) == []


@pytest.mark.browser
def test_hostile_names_do_nothing_in_a_browser(browser: Chrome, tmp_path: Path) -> None:
    open_page(browser, tmp_path, hostile_page(), PHONE)
    chip = next(chip for chip in shown(browser, ".chip") if "dense" in chip.text)
    assert HOSTILE in chip.text
    chip.click()
    assert len(shown(browser, "#engines .point")) == 8
    ActionChains(browser).move_to_element(shown(browser, "#engines .point")[0]).perform()
    assert HOSTILE in (tooltip(browser) or "")
    assert browser.execute_script("return window.hurt") is None
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    assert complaints(browser) == []


@pytest.mark.browser
def test_the_project_s_own_page_recommends_what_its_summary_does(browser: Chrome) -> None:
    summary = json.loads((ROOT / "reports" / "summary.json").read_text(encoding="utf-8"))
    open_file(browser, ROOT / "reports" / "index.html", PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    open_file(browser, ROOT / "reports" / "index.html", DESKTOP, height=1290)
    on_screen = browser.find_element(By.ID, "recommendation").text
    assert on_screen == summary["recommendation"]["reason"]
    timed = sum(len(row["latency_ms"]) for row in summary["rows"])
    assert len(shown(browser, "#engines .point")) == timed
    assert complaints(browser) == []
    if "SHOAL_SCREENSHOTS" in os.environ:
        screenshot(browser, Path(os.environ["SHOAL_SCREENSHOTS"], "report.png"))
