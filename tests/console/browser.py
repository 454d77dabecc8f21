"""Run the console in its own process, and view it with the headless Chromium of Debian.

`python -m tests.console.browser FOLDER` writes a screenshot of every page, 1,280 and 390 pixels wide.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.onebox_process import onebox_process
from tests.pythons import ROOT

WIDTHS = (1280, 390)
VALUE = '{"first": "Ada", "last": "Lovelace", "tags": ["<i>", "math"]}'
PAGES = {
    "cluster": "",
    "table": "table?name=users&sample=1",
    "browse": "browse?table=users&hash=user%3A7",
    "row": "row?table=users&hash=user%3A7&sort=name",
    "client": "client",
    "missing": "row?table=users&hash=user%3A7&sort=nothing",
}

# Rows that are hard to show, and pages that must look right in a browser.
MARKUP, ODD = "<script>document.title = 1</script>", "\\xff\\x00" + "k" * 300
LONG_TABLE = "a_table_with_a_long_name.of_a_team:2026"
HARD_PAGES = {
    "long": f"table?name={quote(LONG_TABLE)}",
    "markup": f"row?table=users&hash={quote(MARKUP)}&sort={quote(MARKUP)}",
    "list": f"browse?table=users&hash={quote(ODD)}",
    "odd": f"row?table=users&hash={quote(ODD)}&sort={'s' * 500}",
}


def missing() -> str:
    """Return why no browser can be controlled, or ""."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            return f"needs {name}, in Debian's packages chromium and chromium-driver"
    return "" if find_spec("selenium") else "needs the package selenium"


@contextmanager
def console_process(metas: list[str], *options: str) -> Iterator[str]:
    """Run `pegasus-green console` on a free port; yield its address; end it by SIGTERM."""
    command = [sys.executable, "-m", "pegasus_green", "console", "--meta", ",".join(metas), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    guard = threading.Timer(120, process.kill)  # readline() below has no timeout
    guard.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("console http://127.0.0.1:"), line
        guard.cancel()
        yield line.split()[1]
    finally:
        guard.cancel()
        process.terminate()
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert status == 0


@contextmanager
def chromium(*, scripts: bool = True) -> Iterator[Any]:
    """Start a browser without a window."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"):
        options.add_argument(word)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(120)
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, width: int) -> None:
    """Set the width of the page: a browser window cannot be as narrow as a phone."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )


def fill(metas: list[str], *, hard: bool = False) -> None:
    """Store some rows with the tool, and rows that are hard to show."""
    lines = [
        f"set user:7 name '{VALUE}' --ttl 7d",
        "mset user:7 mail ada@example.org nick al",
        *(f"set user:{number} name {'x' * number}" for number in (1, 2, 3)),
    ]
    if hard:
        lines += [f"set '{MARKUP}' '{MARKUP}' '{MARKUP}'", f"set {ODD} {'s' * 500} \\xfe{'v' * 100_000}"]
    command = [sys.executable, "-m", "pegasus_green", "shell", "--meta", ",".join(metas), "-t", "users"]
    script = "\n".join(lines).encode()
    subprocess.run(command, cwd=ROOT, check=True, input=script, stdout=subprocess.DEVNULL, timeout=180)


def main(folder: str) -> None:
    """Write the screenshots."""
    os.makedirs(folder, exist_ok=True)
    tables = ("--table", "users:8", "--table", "sessions:32")
    with onebox_process(*tables) as (metas, _), console_process(metas, "--write") as url, chromium() as driver:
        fill(metas)
        for name, path in PAGES.items():
            for width in WIDTHS:
                resize(driver, width)
                driver.get(url + path)
                height = driver.execute_script("return document.documentElement.scrollHeight")
                driver.execute_cdp_cmd(
                    "Emulation.setDeviceMetricsOverride",
                    {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
                )
                Path(folder, f"{name}-{width}.png").write_bytes(driver.get_screenshot_as_png())


if __name__ == "__main__":
    main(sys.argv[1])
