"""Test the console in a real browser: pages, updates, editing, labels and contrast."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.console.browser import (
    HARD_PAGES,
    LONG_TABLE,
    PAGES,
    VALUE,
    WIDTHS,
    chromium,
    console_process,
    fill,
    missing,
    resize,
)
from tests.onebox_process import onebox_process

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")

# The contrast of every text by the formula of WCAG 2 must be 4.5 or more. Fields need a name.
CHECK = """
const wrong = [];
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const [r, g, b] = numbers(color).slice(0, 3).map((part) => {
    part /= 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const color = getComputedStyle(node).backgroundColor;
    const parts = numbers(color);
    if (parts.length < 4 || parts[3] > 0) return color;
  }
  return "rgb(255, 255, 255)";
};
for (const node of document.querySelectorAll("body *")) {
  const has = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!has || ["SCRIPT", "STYLE", "title"].includes(node.tagName)) continue;
  const style = getComputedStyle(node);
  const color = node.tagName === "text" ? style.fill : style.color;
  const [low, high] = [light(color), light(behind(node))].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(1)}: ${node.textContent.slice(0, 30)}`);
  if (parseFloat(style.fontSize) < 12) wrong.push(`small: ${node.textContent.slice(0, 30)}`);
}
for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
  if (!field.labels.length || !field.labels[0].textContent.trim()) wrong.push(`no label: ${field.name}`);
}
for (const node of document.querySelectorAll("svg:not([aria-hidden]), .scroll")) {
  if (!node.getAttribute("aria-label")) wrong.push(`no name: ${node.tagName}`);
}
for (const node of document.querySelectorAll("a, button")) {
  if (!node.textContent.trim()) wrong.push(`no text: ${node.outerHTML}`);
}
if (!document.documentElement.lang || !document.title) wrong.push("no language or title");
const wide = document.documentElement.scrollWidth;
if (wide > innerWidth) wrong.push(`wider than the window: ${wide}`);
return wrong;
"""


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[str, list[str]]]:
    """Serve a console that may write, beside a cluster with rows."""
    tables = ("--table", "users:8", "--table", "sessions:32", "--table", f"{LONG_TABLE}:256")
    with onebox_process(*tables) as (metas, process):
        fill(metas, hard=True)
        with console_process(metas, "--write", "--timeout", "15") as url:
            yield url, metas
        assert process.poll() is None


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def complaints(driver: Any) -> list[Any]:
    """Return the messages of the browser's console, except the status of pages."""
    return [
        entry for entry in driver.get_log("browser") if "the server responded with a status" not in entry["message"]
    ]


def test_pages_are_accessible_numbers_update_and_a_row_is_edited(place):
    url, _ = place
    with chromium() as driver:
        for path in (*PAGES.values(), *HARD_PAGES.values()):
            for width in WIDTHS:
                resize(driver, width)
                driver.get(url + path)
                assert driver.execute_script(CHECK) == [], (path, width)
                assert driver.title.endswith(" - Pegasus console"), "no script of a key has run"
        assert complaints(driver) == []

        resize(driver, 1280)
        _numbers_move(driver, url)
        _a_row_is_edited(driver, url)
        assert complaints(driver) == []


def _numbers_move(driver: Any, url: str) -> None:
    from selenium.webdriver.common.by import By

    driver.get(url + "client")
    before = driver.find_element(By.ID, "client").text
    for _ in range(5):
        with urllib.request.urlopen(url + PAGES["row"], timeout=120) as answer:
            assert answer.status == 200
    wait_for(lambda: driver.find_element(By.ID, "client").text != before)
    assert "Live" in driver.find_element(By.ID, "refresh").text
    button = driver.find_element(By.CSS_SELECTOR, "#refresh button")
    button.click()
    assert "Paused" in driver.find_element(By.ID, "refresh").text
    assert button.text == "Go on"


def found(driver: Any, by: str, what: str) -> Any:
    """Wait for an element of the page after a click, and return it."""
    wait_for(lambda: driver.find_elements(by, what))
    return driver.find_element(by, what)


def _a_row_is_edited(driver: Any, url: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    driver.get(url)
    found(driver, By.LINK_TEXT, "Browse").click()
    Select(found(driver, By.ID, "table")).select_by_visible_text("users")
    driver.find_element(By.ID, "hash").send_keys("user:7")
    driver.find_element(By.CSS_SELECTOR, "form button").click()
    found(driver, By.LINK_TEXT, "name").click()
    value = found(driver, By.ID, "value")
    assert value.get_attribute("value") == VALUE
    value.clear()
    value.send_keys("Grace\nHopper é")
    driver.find_element(By.CSS_SELECTOR, "form button").click()
    wait_for(lambda: "Grace\nHopper é</pre>" in driver.page_source)
    assert "Expires in\n604," in driver.find_element(By.TAG_NAME, "main").text, "the time to live is kept"
    remove = found(driver, By.CSS_SELECTOR, "button.danger")
    remove.click()
    assert "Grace" in driver.page_source, "the box must be ticked first"
    driver.find_element(By.ID, "sure").click()
    remove.click()
    wait_for(lambda: driver.current_url == url + "browse?table=users&hash=user%3A7")
    assert not driver.find_elements(By.LINK_TEXT, "name")
    assert driver.find_elements(By.LINK_TEXT, "mail")


def test_pages_work_without_scripts_and_report_a_dead_cluster():
    from selenium.webdriver.common.by import By

    with (
        onebox_process("--table", "users:8") as (metas, process),
        console_process(metas) as url,
        chromium(scripts=False) as driver,
    ):
        driver.get(url)
        assert driver.find_element(By.ID, "refresh").text == "", "no script has run"
        driver.find_element(By.LINK_TEXT, "users").click()
        assert "Partitions over nodes" in driver.find_element(By.TAG_NAME, "main").text
        process.kill()
        process.wait()
        driver.get(url)
        assert driver.find_element(By.TAG_NAME, "h1").text == "The cluster does not answer"
