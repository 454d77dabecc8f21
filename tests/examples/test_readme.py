"""Test that every Python program in the README and the pages runs unchanged and prints the shown output."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pegasus_green import Client, Table
from pegasus_green.onebox import Onebox
from tests.examples.test_examples import ENVIRONMENT
from tests.pythons import ROOT

PAGES = [
    *("README.md", "README.zh-CN.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
    *(f"docs/zh/{path.name}" for path in sorted((ROOT / "docs" / "zh").glob("*.md"))),
]
# Their blocks are one program; elsewhere each block is one.
ONE_PROGRAM = ("docs/concepts.md", "docs/recipes.md", "docs/scans-and-bulk.md")

FAULTS = "from pegasus_green.onebox import Onebox\nbox = Onebox(metas=3).start()\n"
# A stand-in for the package, which the tests do not need otherwise.
PROMETHEUS = """
import sys, types
SEEN = []
class Histogram:
    def __init__(self, name, text, labels):
        self.names = labels
    def labels(self, *values):
        assert len(values) == len(self.names)
        return types.SimpleNamespace(observe=lambda seconds: SEEN.append(values))
sys.modules["prometheus_client"] = types.ModuleType("prometheus_client")
sys.modules["prometheus_client"].Histogram = Histogram
"""
REQUEST = """
seen = []
body = application({"PATH_INFO": "/page"}, lambda status, headers: seen.append(status))
print(seen, body)
assert (seen, body) == (["200 OK"], [b"1\\n"])
"""
SERVE = """
import os
gevent.spawn_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
serve(0)
assert "closed" in repr(client), client
"""
PRODUCTION = ("docs/production.md", "docs/zh/production.md")
# The code before and after a block.
AROUND = {
    ("docs/console.md", 0): ("", "client.close()\n"),
    ("docs/onebox.md", 2): (FAULTS, "box.stop()\n"),
    **{(page, 0): ("", REQUEST + "client.close()\n") for page in PRODUCTION},
    **{(page, 3): ("", REQUEST + SERVE) for page in PRODUCTION},
    ("docs/observability.md", 1): (PROMETHEUS, 'assert SEEN == [("temp", "put", "ok")], SEEN\n'),
}
# Blocks that are not complete programs have their own test below.
GUNICORN_PAGES = PRODUCTION
GUNICORN_FILES = ("# gunicorn.conf.py\n", "# app.py:")
IN_PYTEST = ("docs/onebox.md", 1)
GUNICORN = """
import runpy
settings = runpy.run_path("gunicorn.conf.py")
import app
app.pages.set("page", "body", "text")
assert "connections=2" in repr(app.client), app.client
settings["worker_exit"](None, None)
assert "closed" in repr(app.client), app.client
"""


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def programs() -> list[tuple[str, int]]:
    found = [(page, number) for page in PAGES for number in range(len(blocks(page)))]
    return [key for key in found if key != IN_PYTEST and not is_gunicorn(*key)]


def is_gunicorn(page: str, number: int) -> bool:
    return page in GUNICORN_PAGES and blocks(page)[number].startswith(GUNICORN_FILES)


def program_of(page: str, number: int) -> str:
    before, behind = AROUND.get((page, number), ("", ""))
    return before + blocks(page)[number] + behind


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    with Onebox(process=True) as box:
        yield box


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    """Each program starts with an empty cluster."""
    if "box" in request.fixturenames:
        request.getfixturevalue("box").reset()


def addressed(program: str, box: Any) -> str:
    metas = list(box.meta_addresses)
    program = program.replace('"127.0.0.1:34601", "127.0.0.1:34602"', ", ".join(f'"{meta}"' for meta in metas))
    return program.replace("127.0.0.1:34601,127.0.0.1:34602", ",".join(metas)).replace("127.0.0.1:34601", metas[0])


def run(program: str, box: Any, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", addressed(program, box)],
        cwd=directory,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # A failed greenlet or thread writes to stderr and does not change the exit status.
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    printed = done.stdout.splitlines()
    # Each comment matches its own line of output: two comments "None" need two lines.
    said = re.findall(r"^\s*print\(.*\)\s+# (.*)$", program, re.MULTILINE)
    assert Counter(said) - Counter(printed) == Counter(), printed
    return done.stdout


def test_the_readme_shows_both_apis_and_the_onebox() -> None:
    first, pythonic, documented, onebox = blocks("README.md")
    assert "connect(" in first
    assert "Pegasus(" in documented
    assert "open_table(" in pythonic
    assert "Onebox(" in onebox
    for block in (documented, pythonic):
        assert 12 <= len([line for line in block.splitlines() if line.strip()]) <= 20, "about 15 lines"


@pytest.mark.parametrize(("page", "number"), [key for key in programs() if key[0] not in ONE_PROGRAM])
def test_a_program_of_the_readme_runs(box: Any, tmp_path: Path, page: str, number: int) -> None:
    printed = run(program_of(page, number), box, tmp_path)
    assert bool(printed) == ("print(" in program_of(page, number))


@pytest.mark.parametrize("page", ONE_PROGRAM)
def test_the_programs_of_a_page_run(box: Any, tmp_path: Path, page: str) -> None:
    """Each page has its own cluster, so that its programs can be copied."""
    program = "".join(blocks(page))
    assert "34601" not in program
    unsaid = [line for line in program.splitlines() if line.lstrip().startswith("print(") and "  # " not in line]
    assert unsaid == []
    assert run(program, box, tmp_path)


@pytest.mark.parametrize("page", GUNICORN_PAGES)
def test_the_gunicorn_files_of_the_page_work(box: Any, tmp_path: Path, page: str) -> None:
    """The two files are used as gunicorn uses them; tests/fork runs gunicorn itself."""
    files = [text for number, text in enumerate(blocks(page)) if is_gunicorn(page, number)]
    for name, text in zip(("gunicorn.conf.py", "app.py"), files, strict=True):
        assert text.startswith(f"# {name}")
        (tmp_path / name).write_text(addressed(text, box))
    run(GUNICORN, box, tmp_path)


def test_the_pytest_example_passes(tmp_path: Path) -> None:
    page, number = IN_PYTEST
    (tmp_path / "test_mine.py").write_text(blocks(page)[number])
    plugin = ["-p", "pegasus_green.onebox.pytest_plugin", "-p", "no:pegasus_green", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, str(tmp_path)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_names_listed_as_absent_do_not_exist() -> None:
    """The last section of docs/concepts.md."""
    assert not hasattr(Client, "refresh")
    assert not hasattr(Table, "batch")
    verbs = [name for name in dir(Table) if not name.endswith("_async")]
    looping = {name for name in verbs if "on_progress" in _parameters(getattr(Table, name))}
    assert looping == {"del_range", "truncate", "set_stream", "remove_stream"}


def _parameters(method: Any) -> Any:
    return inspect.signature(method).parameters if inspect.isfunction(method) else ()
