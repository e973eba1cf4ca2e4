"""The report's maps: what they hold, and how they behave in a browser without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from soscope import contract
from soscope.report.canvas import Canvas, Points
from soscope.report.interactive import FeatureMap, feature_map, tissue_source
from soscope.report.layers import layer_of
from soscope.report.quantised import LEVELS, Quantised, features_that_fit

SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1300,1000"),
)


def built(folder: Path, with_shapes: int = 10**6, first: tuple[str, ...] = (), limit_mb: float = 20) -> FeatureMap:
    sdata = contract.open_result(folder / "demo.zarr", with_shapes)
    canvas = Canvas.of(sdata)
    return feature_map(sdata, "rna", canvas, tissue_source(sdata, canvas), list(first), limit_mb)


def given_to_browser(found: FeatureMap) -> dict[str, Any]:
    from bokeh.models import AutocompleteInput

    search = found.model.select_one({"type": AutocompleteInput})
    return search.js_property_callbacks["change:value"][0].args


def test_no_value_moves_by_more_than_half_a_step(rng: np.random.Generator) -> None:
    values = np.c_[rng.lognormal(2, 3, 500), rng.normal(size=500), np.full(500, 0.7)]
    found = Quantised.of(values)
    for i in range(3):
        half = (values[:, i].max() - values[:, i].min()) / LEVELS / 2
        off = np.abs(found.of_feature(i) - values[:, i])
        assert (off <= half + np.spacing(np.float32(np.abs(values[:, i]).max()))).all()


def test_named_features_come_first_and_one_is_always_there() -> None:
    names = [f"g{i}" for i in range(100)]
    assert features_that_fit(["g7"], names, 1000, 2.667e-3 * 4 + 1e-6) == ["g7", "g0", "g1", "g2"]
    assert features_that_fit(["g7"], names, 10**9, 1.0) == ["g7"]
    assert features_that_fit([], names, 10, 20.0) == names


def test_maps_hold_the_values_of_the_tables(trained: Path) -> None:
    enhanced = anndata.read_h5ad(trained / "demo_rna.h5ad")
    observed = contract.open_section(trained / "demo.zarr").tables["rna"]
    named = enhanced.var_names[5]
    given = given_to_browser(built(trained, first=(named,)))
    assert given["features"] == [named, *(f for f in enhanced.var_names if f != named)]
    tables = [observed.X.toarray() / 7, enhanced.X.toarray(), enhanced.layers["sd"].toarray()]
    for k, values in enumerate(tables):
        codes = given["codes"][k].reshape(len(given["features"]), -1)
        back = given["low"][k][:, None] + given["step"][k][:, None] * codes
        expected = values[:, enhanced.var_names.get_indexer(given["features"])].T
        np.testing.assert_allclose(back, expected, atol=expected.max() / LEVELS)
    per_spot = tables[1].reshape(-1, 7, enhanced.n_vars).sum(1) / 7
    shown = given["sources"][0].data["observed"]
    np.testing.assert_allclose(shown, per_spot[:, 5], rtol=1e-4, atol=1e-3)


def test_what_does_not_fit_is_said(trained: Path, soscope: Callable, tmp_path: Path) -> None:
    found = built(trained, limit_mb=0.01)
    assert 1 <= found.n_features < found.n_all == 12
    run = shutil.copytree(trained, tmp_path / "copy")
    last = anndata.read_h5ad(trained / "demo_rna.h5ad").var_names[-1]
    assert soscope("report", f"run={run}", "report.interactive_mb=0.01", f"report.features=[{last}]") == 0
    page = (run / "report.html").read_text()
    assert f"{found.n_features} of 12 features are here" in page
    assert f'"completions":["{last}"' in page.replace('\\"', '"')
    assert soscope("report", f"run={run}", "report.interactive=false") == 0
    assert "Bokeh" not in (run / "report.html").read_text()
    assert soscope("report", f"run={run}", "report.interactive_mb=0") == 1


def test_pixels_show_the_nearest_subspot(rng: np.random.Generator) -> None:
    xy = rng.uniform(0, 1000, (60, 2))
    layer = layer_of(Points(xy), [], 0.5)
    values = np.arange(60, dtype=np.float32)[layer.rows]
    layer.show("enhanced", values)
    (pixels,) = layer.source.data["enhanced"]
    height, width = pixels.shape
    rows, columns = np.nonzero(np.isfinite(pixels))
    x = (layer.place["x"] + (columns + 0.5) * layer.place["dw"] / width) / 0.5
    y = (layer.place["y"] + (rows + 0.5) * layer.place["dh"] / height) / 0.5
    nearest = ((np.c_[x, y][:, None] - xy[None]) ** 2).sum(-1).argmin(1)
    assert (pixels[rows, columns] == nearest).mean() > 0.999, "ties aside"
    assert np.isnan(pixels).any()


class Addresses(HTMLParser):
    """What a page would load; scripts and what lies inside them are not addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a network; its requests are kept."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        reason = "no chromium and chromedriver on the PATH (make browser)"
        if os.environ.get("SOSCOPE_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = program
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options, ChromeService(driver))
    chrome.set_network_conditions(offline=True, latency=0, throughput=0)
    yield chrome
    chrome.quit()


def until(said: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.perf_counter() + seconds
    while not (found := said()):
        assert time.perf_counter() < end, "the page does not do it"
        time.sleep(0.1)
    return found


STATE = """
const models = [...Bokeh.documents[0]._all_models.values()]
const plots = models.filter((m) => m.type == "Figure")
return plots.map((p) => [p.title.text, p.x_range.start, p.x_range.end, p.y_range.start, p.y_range.end])
"""


def state(chrome: Any) -> list[list[Any]]:
    """Title and ranges of the three plots."""
    return chrome.execute_script(STATE)


def pictures(chrome: Any) -> list[np.ndarray]:
    """Return what is drawn in the frame of each plot, without its title and colour bar."""
    from io import BytesIO

    from PIL import Image

    where = chrome.execute_script(
        "const found = []; const seek = (view) => { if (view.model.type == 'Figure') {"
        " const b = view.el.getBoundingClientRect(), f = view.frame.bbox;"
        " found.push([b.x + f.x, b.y + f.y, f.width, f.height]) } else for (const v of view.children()) seek(v) };"
        "for (const view of Object.values(Bokeh.index)) seek(view); return found"
    )
    screen = np.asarray(Image.open(BytesIO(chrome.get_screenshot_as_png())).convert("RGB")).astype(int)
    return [screen[int(y) : int(y + h), int(x) : int(x + w)] for x, y, w, h in where]


def opened(chrome: Any, page: Path) -> None:
    chrome.get_log("performance")
    chrome.get(page.resolve().as_uri())
    until(lambda: chrome.execute_script("return window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle"))
    chrome.execute_script("document.querySelector('.map').scrollIntoView()")
    time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("drawn_as", ["outlines", "pixels"])
def test_in_a_browser_without_a_network(
    drawn_as: str,
    trained: Path,
    browser: Any,
    soscope: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The page opens, a feature is searched, all three pictures change; they are zoomed and panned together."""
    from selenium.webdriver import ActionChains, Keys

    if drawn_as == "pixels":
        monkeypatch.setattr("soscope.report.layers.SHAPES_UP_TO", 10)
    run = shutil.copytree(trained, tmp_path / "copy")
    assert soscope("report", f"run={run}", "report.n_features=1") == 0
    parser = Addresses()
    parser.feed((run / "report.html").read_text())
    assert parser.found
    assert all(address.startswith("data:") for address in parser.found)
    opened(browser, run / "report.html")
    names = anndata.read_h5ad(trained / "demo_rna.h5ad").var_names
    titles, before = [row[0] for row in state(browser)], pictures(browser)
    assert titles == [f"{names[0]}: {part}" for part in ("observed / K", "enhanced", "standard deviation")]
    assert len(before) == 3
    assert all(picture.std() > 10 for picture in before), "something is drawn"

    box = browser.execute_script(
        "return [...Object.values(Bokeh.index)].flatMap(function f(v) {"
        "return v.model.type == 'AutocompleteInput' ? [v.input_el] : [...v.children()].flatMap(f) })[0]"
    )
    box.click()
    box.send_keys(names[4].upper(), Keys.ENTER)
    until(lambda: all(row[0].startswith(f"{names[4]}:") for row in state(browser)))
    time.sleep(0.5)
    after = pictures(browser)
    for old, new in zip(before, after, strict=True):
        assert (np.abs(old - new).max(-1) > 8).mean() > 0.02

    still = state(browser)
    at = ActionChains(browser).move_to_element(browser.find_element("css selector", ".map"))
    at.click_and_hold().move_by_offset(40, 25).release().perform()
    panned = until(lambda: [r[1:] for r in state(browser)] != [r[1:] for r in still] and state(browser))
    assert panned[0][1:] == panned[1][1:] == panned[2][1:]
    assert panned[0][1] < still[0][1], "dragged to the right, the map shows what lies left"
    assert panned[0][3] < still[0][3], "dragged down, with y downwards, what lies above"
    assert panned[0][2] - panned[0][1] == pytest.approx(still[0][2] - still[0][1])

    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
    assert urls
    assert not [url for url in urls if not re.match(r"(file|data|blob):", url)]
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
