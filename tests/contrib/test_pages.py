"""Run the programs on the pages of docs/frameworks and the examples in the docstrings of contrib."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pegasus_green import Client
from tests.contrib.suites import ROOT

FRAMEWORKS = ROOT / "docs" / "frameworks"
ADDRESS = "127.0.0.1:34601"
# Pages whose blocks of Python are programs by themselves.
PAGES = ("limits", "opentelemetry", "prometheus")
# The code after a block that checks its effect.
BEHIND = {
    ("limits", 0): 'assert app.test_client().get("/").data == b"hello"\n',
    ("prometheus", 1): """
said = []
assert application({"PATH_INFO": "/page"}, lambda *answer: said.append(answer)) == [b"1"]
assert b"pegasus_calls_total" in application({"PATH_INFO": "/metrics"}, lambda *answer: said.append(answer))[0]
client.close()
""",
}
# Modules whose docstring examples need only a client and a table.
MODULES = ("limits", "opentelemetry", "prometheus")


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (FRAMEWORKS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("page", "number"), [(page, number) for page in PAGES for number in range(len(blocks(page)))])
def test_a_program_on_a_page_runs(metas: str, tmp_path: Path, page: str, number: int) -> None:
    program = blocks(page)[number] + BEHIND.get((page, number), "")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if "MultiProcessCollector" in program:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program.replace(ADDRESS, metas)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^print\(.*\)\s+# (.*)$", program, re.MULTILINE)
    assert Counter(said) - Counter(done.stdout.splitlines()) == Counter()


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_docstring_run(metas: str, name: str) -> None:
    module = importlib.import_module(f"pegasus_green.contrib.{name}")
    with Client(metas) as client:
        globs = {**vars(module), "client": client, "table": client.table("temp")}
        tried = 0
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=globs):
            for example in test.examples:
                example.source = example.source.replace(ADDRESS, metas)
            result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
            assert result.failed == 0
            tried += result.attempted
        assert tried > 0
