"""The report page in a real browser: sorting, filtering, details, links, copying, and reading without JavaScript."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ortforge.plugins.reports import html

from tests.unit.report_sample import cell, sample_cells, sample_report

EVIL = "<script>document.title='owned'</script>"


def needed(name: str, found: object) -> Any:
    """Return what a test cannot do without; where CI promises to have everything, its lack is a failure."""
    if not found:
        message = f"{name} is not installed: the page is not tried in a browser"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        from selenium import webdriver
    except ImportError:
        webdriver = None  # type: ignore[assignment]
    needed("The Python package selenium", webdriver)
    program = needed("chromium (Debian: chromium)", shutil.which("chromium"))
    driver = needed("chromedriver (Debian: chromium-driver)", shutil.which("chromedriver"))
    options = webdriver.ChromeOptions()
    options.binary_location = program
    profile = tmp_path_factory.mktemp("profile")
    for switch in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        "--window-size=1400,1200",
    ):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    evil = cell(EVIL, EVIL, "stock", "failed", reasons=(EVIL,), log=EVIL)
    html.write(sample_report([*sample_cells(), evil]), tmp_path / "report.html")
    browser.get((tmp_path / "report.html").as_uri())
    yield browser
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def shown(page: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#cells > tbody:not([hidden]) .toggle')].map(e => e.textContent)"
    return list(page.execute_script(script))


def values(page: Any, column: str) -> list[str]:
    script = f"""return [...document.querySelectorAll('#cells > tbody:not([hidden]) > .row > [data-label="{column}"]')]
        .map(e => e.dataset.sort)"""
    return list(page.execute_script(script))


def click(page: Any, selector: str) -> None:
    page.execute_script("document.querySelector(arguments[0]).click()", selector)


def choose(page: Any, name: str, value: str) -> None:
    page.execute_script(
        """const select = document.querySelector(`.tools [name="${arguments[0]}"]`);
        select.value = arguments[1]; select.dispatchEvent(new Event('input', {bubbles: true}))""",
        name,
        value,
    )


def test_names_are_inert_and_the_page_runs_without_errors(page: Any) -> None:
    assert page.title == "ortforge: 8 verdicts are not as expected"
    assert EVIL in shown(page)


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "magika"), ("target", "openvino"), ("ep", "cuda"), ("recipe", "int8"), ("status", "crashed")],
)
def test_each_filter_leaves_what_it_names(page: Any, name: str, value: str) -> None:
    choose(page, name, value)
    wanted = [entry["model"] for entry in sample_cells() if entry[name] == value]
    assert shown(page) == wanted
    assert page.execute_script("return document.querySelector('.tools output').value") == f"{len(wanted)} of 15 cells"


def test_filters_and_words_combine_and_can_be_reset(page: Any) -> None:
    choose(page, "model", "minilm")
    choose(page, "text", "cosine BELOW")
    assert values(page, "Recipe") == ["static-int8"]
    click(page, ".tools [type=reset]")
    page.execute_async_script("setTimeout(arguments[0], 20)")
    assert len(shown(page)) == 15


def test_a_status_in_the_header_filters_by_it(page: Any) -> None:
    click(page, ".chip[data-status=timeout], button.s-timeout")
    page.execute_async_script("setTimeout(arguments[0], 20)")
    assert shown(page) == ["magika"]


def test_columns_sort_both_ways_and_missing_values_stay_last(page: Any) -> None:
    for _ in "ab":  # what failed, and has no latency, comes first
        click(page, "#cells th:nth-child(5) button")
    assert values(page, "p50")[0] == ""
    click(page, "#cells th:nth-child(8) button")
    up = values(page, "p50")
    known = [float(value) for value in up if value]
    assert known == sorted(known)
    assert "" not in up[: len(known)]
    click(page, "#cells th:nth-child(8) button")
    down = values(page, "p50")
    assert [float(value) for value in down if value] == known[::-1]
    assert "" not in down[: len(known)]
    assert page.execute_script("return document.querySelector('#cells th[aria-sort]').ariaSort") == "descending"


def test_statuses_sort_from_best_to_worst(page: Any) -> None:
    click(page, "#cells th:nth-child(5) button")
    ranks = [int(value) for value in values(page, "Status")]
    assert ranks == sorted(ranks)


def test_a_row_opens_its_details(page: Any) -> None:
    visible = "return document.querySelector('#cell-2 .detail').checkVisibility()"
    assert page.execute_script(visible) is False
    click(page, "#cell-2 .toggle")
    assert page.execute_script(visible) is True
    assert page.execute_script("return document.querySelector('#cell-2 .toggle').ariaExpanded") == "true"
    click(page, "#cell-2 .toggle")
    assert page.execute_script(visible) is False


def test_a_link_to_a_cell_opens_it_even_when_it_is_filtered_away(page: Any) -> None:
    choose(page, "model", "magika")
    click(page, ".ship a[href='#cell-2']")
    page.execute_async_script("setTimeout(arguments[0], 100)")
    assert page.execute_script("return document.querySelector('#cell-2 .detail').checkVisibility()") is True


def test_the_command_is_copied(page: Any) -> None:
    granted = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.execute_cdp_cmd("Browser.grantPermissions", granted)
    click(page, "#cell-2 .toggle")
    page.find_element("css selector", "#cell-2 .copy").click()
    page.execute_async_script("setTimeout(arguments[0], 100)")
    assert page.execute_script("return document.querySelector('#cell-2 .copy').textContent") == "Copied"
    assert (
        page.execute_async_script("navigator.clipboard.readText().then(arguments[0])") == sample_cells()[1]["command"]
    )


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_the_page_never_scrolls_sideways(page: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        click(page, "#cell-2 .toggle")
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(page: Any, scheme: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    ratios = page.execute_script(
        """
        const linear = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const luminance = (colour) => {
          const [r, g, b] = colour.match(/[\\d.]+/g).map((value) => linear(value / 255));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const back = luminance(getComputedStyle(document.body).backgroundColor);
        return [...document.querySelectorAll('h1, h2, p, .soft, .status, .mark, a')].map((element) => {
          const text = luminance(getComputedStyle(element).color);
          return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
        });
        """
    )
    # WCAG 2.1, 1.4.3: 4.5 to 1 for text of ordinary size.
    assert min(ratios) >= 4.5


def test_everything_can_be_read_without_javascript(browser: Any, tmp_path: Path) -> None:
    html.write(sample_report(), tmp_path / "report.html")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((tmp_path / "report.html").as_uri())
        rows = browser.find_elements("css selector", "#cells > tbody")
        assert len(rows) == len(sample_cells())
        assert all(row.is_displayed() for row in rows)
        assert not browser.find_element("css selector", ".tools").is_displayed()
        rows[1].find_element("css selector", "summary").click()
        assert "ortforge repro" in rows[1].text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
