"""The page as a browser shows it: in both themes, on a phone, on paper, under mouse and finger."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedtt_lightning.report import Report
from report.browser import CHROMIUM, NAMES, Browser
from run_files import write_run, write_study

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is installed"),
    pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="starts the browser by posix_spawn"),
]

# Of runs outside of a study; then a study with long names, and 24 groups.
LONG = "a_choice_with_a_name_that_is_as_long_as_names_of_choices_get_when_people_write_them"
GRID = {"peft.rank": ["2", "4", "8", "16"], "split": [LONG, "iid", "alpha 0.1"], "c": [*"ab"]}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        write_run(folder / f"{LONG}_{seed}", [0.5, 0.6 + seed / 10], seed=seed, task="qnli")
    return Report([folder, write_study(folder / "study", GRID, seeds=1)])


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.write(path)
    return path


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        browser.show()
        browser.open(page)
        yield browser
    finally:
        browser.close()


def test_nothing_is_asked_for_and_nothing_complained_of(browser: Browser) -> None:
    browser.value("document.body.offsetHeight")
    (request,) = browser.events("Network.requestWillBeSent")
    assert request["params"]["type"] == "Document"
    assert browser.events("Log.", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []
    assert browser.value("document.scripts.length") == 0


def test_every_chart_is_drawn(browser: Browser, report: Report) -> None:
    browser.show()
    charts = sum(len(task["charts"]) for task in report.numbers()["tasks"])
    sizes = browser.value(
        "[...document.querySelectorAll('figure svg')].map(svg =>"
        " [svg.clientWidth, svg.clientHeight, [...svg.querySelectorAll('.mark')]"
        ".filter(mark => mark.getBoundingClientRect().width > 0).length])"
    )
    assert len(sizes) == charts
    assert all(width > 400 and height > 150 and marks for width, height, marks in sizes), sizes


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_is_as_wide_as_the_window(browser: Browser, width: int) -> None:
    """Tables may be scrolled, each by itself; so may not the page."""
    browser.show(width)
    browser.value("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert browser.value("window.innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width


FAINT = """(() => {
  const light = c => { const p = c.match(/[\\d.]+/g).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * p[0] + 0.7152 * p[1] + 0.0722 * p[2] };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ratio = node => { const style = getComputedStyle(node);
    const ink = light(node.closest('svg') ? style.fill : style.color);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) };
  return [...document.querySelectorAll('p, h1, h2, h3, td, th, summary, svg text')]
    .filter(node => ratio(node) < 4.5).map(node => node.outerHTML.slice(0, 200)) })()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_read_in_both_themes(browser: Browser, theme: str) -> None:
    browser.show(theme=theme)
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (theme == "dark")
    assert browser.value(FAINT) == []


# The words that charts show of their marks now, and whether these are inside of the charts.
SHOWN = """[...document.querySelectorAll('.mark > text')]
  .map(text => [text, text.getBoundingClientRect()]).filter(([_, box]) => box.width > 0)
  .map(([text, box]) => { const all = text.closest('svg').getBoundingClientRect();
    return box.left >= all.left && box.right <= all.right + 1 && box.top >= all.top - 1 })"""


def middle(browser: Browser, chart: int) -> list[float]:
    """Scroll to the first mark of a chart and return where it is then."""
    place: list[float] = browser.value(
        f"(() => {{ const mark = document.querySelectorAll('figure svg')[{chart}]"
        ".querySelector('.mark > :not(text)'); mark.scrollIntoView({block: 'center'});"
        " const box = mark.getBoundingClientRect();"
        " return [box.left + box.width / 2, box.top + box.height / 2] })()"
    )
    return place


@pytest.mark.parametrize("width", [400, 1200])
def test_marks_tell_their_numbers(browser: Browser, width: int) -> None:
    browser.show(width)
    for chart in range(browser.value("document.querySelectorAll('figure svg').length")):
        browser.point_at(0, 0)
        assert browser.wait_for(f"{SHOWN}.length == 0")
        browser.point_at(*middle(browser, chart))
        browser.wait_for(f"{SHOWN}.length > 0")
        assert browser.value(SHOWN) == [True], chart


def test_marks_tell_their_numbers_to_a_finger(browser: Browser, page: Path) -> None:
    browser.show(400)
    browser.open(page)  # a mouse that was there before would be in the way
    browser.touch(*middle(browser, 0))
    browser.wait_for(f"{SHOWN}.length > 0")
    assert browser.value(SHOWN) == [True]


def test_print_has_all_of_it_on_white(browser: Browser, report: Report) -> None:
    browser.show(width=690, theme="dark", media="print")  # A4 less its margins
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut: list[Any] = browser.value(
        "[...document.querySelectorAll('table, figure svg')].filter(node =>"
        " node.getBoundingClientRect().right > document.documentElement.clientWidth + 1 ||"
        " (node.parentElement.matches('.wide') &&"
        " node.parentElement.scrollHeight > node.parentElement.clientHeight + 1))"
        ".map(node => node.outerHTML.slice(0, 300))"
    )
    assert cut == []
    assert browser.value("document.querySelector('pre').getBoundingClientRect().height") > 0
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert browser.pdf().startswith(b"%PDF-")
