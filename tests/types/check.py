"""Check programs as users write them, by mypy --strict and by pyright: ``python -m tests.types.check``.

Checked are the programs beside this file and every Python block of the READMEs and docs/. The programs say by
``assert_type`` what they expect, and by an "ignore" what both checkers have to refuse: an unused one is an error.

The blocks of the pages are checked with fewer rules: they declare short functions without types, and use a name for
one thing after another, as a reader types it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.examples.test_readme import ONE_PROGRAM, PAGES, blocks
from tests.pythons import ROOT

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
# Rules for pages that do not hold for programs.
LENIENT = ("--allow-untyped-defs", "--allow-untyped-calls", "--allow-incomplete-defs", "--allow-redefinition-new")
# The lines before blocks that belong to another program or to the environment of the reader.
BEFORE = {
    ("docs/onebox.md", 2): "from pegasus_green.onebox import Onebox\nbox = Onebox(metas=3).start()\n",
}
# Modules that pages import and the tests do not install: their names are Any.
FOREIGN = ("app", "prometheus_client")


def gather(directory: Path) -> dict[str, str]:
    """Copy the programs and write the blocks of the pages as modules; return the source of each file."""
    programs, pages = directory / "programs", directory / "pages"
    shutil.copytree(PROGRAMS, programs, ignore=shutil.ignore_patterns("__pycache__"))
    pages.mkdir(parents=True)
    origin = {f"programs/{path.name}": f"tests/types/programs/{path.name}" for path in programs.glob("*.py")}
    for page in PAGES:
        found = blocks(page)
        for number, text in enumerate(["".join(found)] if page in ONE_PROGRAM else found):
            name = re.sub(r"\W", "_", page.removesuffix(".md"))
            (pages / f"{name}_{number}.py").write_text(BEFORE.get((page, number), "") + text)
            origin[f"pages/{name}_{number}.py"] = page if page in ONE_PROGRAM else f"{page}, Python block {number}"
    for name in FOREIGN:
        (pages / f"{name}.pyi").write_text("from typing import Any\ndef __getattr__(name: str) -> Any: ...\n")
    return origin


def mypy(directory: Path, *arguments: str) -> bool:
    """Run mypy on the modules of a directory; return whether it found nothing."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(HERE / "mypy.ini"), *arguments]
    # One cache for each set of rules: mypy mixes them up otherwise.
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / directory.name)]
    files = sorted(path.name for path in directory.glob("*.py"))
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run([*command, *files], cwd=directory, env=environment, check=False).returncode == 0


def pyright(directory: Path, count: int) -> bool:
    """Run pyright on a directory; return whether it found nothing in this many files."""
    settings = json.loads((HERE / "pyrightconfig.json").read_text())
    (directory / "pyrightconfig.json").write_text(json.dumps({**settings, "extraPaths": [str(ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--project", str(directory), "--pythonpath", sys.executable]
    # The pinned release is used, not the newest one.
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run([*command, "--outputjson"], env=environment, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        print(done.stdout, done.stderr)
        return False
    for found in report["generalDiagnostics"]:
        line = found["range"]["start"]["line"] + 1 if "range" in found else 0
        print(f"{Path(found.get('file', '')).relative_to(directory)}:{line}: {found['message']} [{found.get('rule')}]")
    summary = report["summary"]
    print(f"pyright: {summary['errorCount']} errors in {summary['filesAnalyzed']} files")
    return bool(done.returncode == 0 and summary["filesAnalyzed"] >= count)


def main() -> int:
    """Check everything; return the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch).resolve()
        origin = gather(directory)
        good = [mypy(directory / "programs"), mypy(directory / "pages", *LENIENT), pyright(directory, len(origin))]
    if not all(good):
        print("\n".join(f"{name} is {place}" for name, place in origin.items()))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
