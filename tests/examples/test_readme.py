"""The programs in the README and the onebox page run as they stand there, and print what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pegasus_green.onebox import Onebox
from tests.examples.test_examples import ENVIRONMENT
from tests.pythons import ROOT

FAULTS = "from pegasus_green.onebox import Onebox\nbox = Onebox(metas=3).start()\n"


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    with Onebox(process=True) as box:
        yield box


def run(program: str, box: Any, directory: Path) -> str:
    metas = list(box.meta_addresses)
    program = program.replace('"127.0.0.1:34601", "127.0.0.1:34602"', ", ".join(f'"{meta}"' for meta in metas))
    program = program.replace("127.0.0.1:34601,127.0.0.1:34602", ",".join(metas)).replace("127.0.0.1:34601", metas[0])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=directory,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    for line in program.splitlines():
        said = re.match(r"\s*print\(.*?\)\s+# (.*)$", line)
        if said:
            assert said[1] in done.stdout, line
    return done.stdout


def test_the_readme_has_both_faces_and_the_onebox() -> None:
    documented, pythonic, onebox = blocks("README.md")
    assert "Pegasus(" in documented
    assert "connect(" in pythonic
    assert "Onebox(" in onebox
    for block in (documented, pythonic):
        assert 12 <= len([line for line in block.splitlines() if line.strip()]) <= 20, "about 15 lines"


@pytest.mark.parametrize("number", range(3))
def test_readme(box: Any, tmp_path: Path, number: int) -> None:
    assert run(blocks("README.md")[number], box, tmp_path)


def test_onebox_page(box: Any, tmp_path: Path) -> None:
    in_python, in_pytest, faults = blocks("docs/onebox.md")
    assert run(in_python, box, tmp_path) == ""
    assert "pegasus_onebox" in in_pytest
    assert run(FAULTS + faults + "box.stop()\n", box, tmp_path) == ""


def test_options_page(box: Any, tmp_path: Path) -> None:
    (options,) = blocks("docs/options.md")
    assert run(options, box, tmp_path) == ""
