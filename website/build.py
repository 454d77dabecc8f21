"""Build the documentation site from docs/ and the docstrings: ``python -m website.build OUTPUT``.

It uses Sphinx with MyST and the theme furo. They load nothing from other hosts, and they read the pages as they are.
Every warning is an error.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from website.check import foreign
from website.reference import PAGES, pages

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DOCS = ROOT / "docs"
# `make docs` installs it.
MERMAID = Path(sys.prefix) / "website" / "node_modules" / "mermaid" / "dist" / "mermaid.min.js"
# The sections of the site. A page that is in none of them goes to the last one.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Guide": ("quickstart", "concepts", "scans-and-bulk", "errors", "retries", "options", "recipes", "porting"),
    "Production": (
        "production",
        "server-versions",
        "greenlets",
        "fork-and-threads",
        "observability",
        "secured-clusters",
        "frameworks/index",
        "guarantees",
        "performance",
    ),
    "Tests": ("onebox",),
    "API reference": tuple(f"reference/{name}" for name in PAGES),
    "中文": ("zh/index",),
    "Project": ("operations", "design"),
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_of(path: Path) -> str:
    """Return the name of a page below the site: README is the index of its folder."""
    name = path.relative_to(DOCS).with_suffix("").as_posix()
    return name.replace("README", "index")


def rewrite(text: str, page: str) -> str:
    """Return a page for the site: links that leave docs/ become text, diagrams become elements.

    A link whose text is the name of a file gets the title of that page.
    A picture from outside of docs/ is expected in ``pictures``.
    """
    here = posixpath.dirname(page)

    def link(found: re.Match[str]) -> str:
        words, (target, mark, anchor) = found[2], found[3].partition("#")
        if not target or "://" in target:
            return found[0]
        if posixpath.normpath(posixpath.join("docs", here, target)).partition("/")[0] != "docs":
            if found[1]:
                return f"![{words}]({'../' * page.count('/')}pictures/{posixpath.basename(target)})"
            return f"`{words}`" if re.fullmatch(r"\w+", words) else words
        if re.fullmatch(r"[\w/-]+(\.md|/)", words):
            words = title_of(DOCS / here / target) or words
        return f"{found[1]}[{words}]({target.replace('README.md', 'index.md')}{mark}{anchor})"

    text, diagrams = DIAGRAM.subn(r'<pre class="mermaid">\n\1</pre>\n', LINK.sub(link, text))
    if diagrams:
        static = f"{'../' * page.count('/')}_static/mermaid.min.js"
        start = 'mermaid.initialize({startOnLoad: true, theme: "neutral"});'
        text += f'\n<script src="{static}"></script>\n<script>{start}</script>\n'
    return text


def title_of(path: Path) -> str:
    """Return the first heading of a page, "" without one."""
    found = re.match(r"# (.+)", path.read_text()) if path.is_file() else None
    return found[1] if found else ""


def pictures(path: Path) -> list[Path]:
    """Return the pictures of a page that are outside of docs/."""
    found = [(path.parent / target).resolve() for mark, _, target in LINK.findall(path.read_text()) if mark]
    return [picture for picture in found if picture.exists() and not picture.is_relative_to(DOCS)]


def gather(source: Path) -> None:
    """Write the tree that Sphinx reads."""
    (source / "_static").mkdir(parents=True)
    (source / "pictures").mkdir()
    shutil.copy(HERE / "conf.py", source)
    shutil.copy(HERE / "site.css", source / "_static")
    shutil.copy(MERMAID, source / "_static")
    names = {}
    for path in sorted(DOCS.rglob("*")):
        if path.suffix == ".md":
            page = page_of(path)
            names[page] = rewrite(path.read_text(), page)
            for picture in pictures(path):
                shutil.copy(picture, source / "pictures")
        elif path.is_file():
            target = source / path.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    names.update((f"reference/{name}", text) for name, text in pages())
    listed = {page for section in SECTIONS.values() for page in section}
    rest = [page for page in names if page not in listed and "/" not in page and page != "index"]
    for title, section in SECTIONS.items():
        entries = [*section, *rest] if title == "Project" else section
        names["index"] += _tree(title, [page for page in entries if page in names])
    for folder in sorted({posixpath.dirname(page) for page in names} - {"", "reference"}):
        inner = [page for page in names if posixpath.dirname(page) == folder and posixpath.basename(page) != "index"]
        names[f"{folder}/index"] += _tree("", [posixpath.basename(page) for page in inner])
    for page, text in names.items():
        target = source / f"{page}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def _tree(title: str, entries: list[str]) -> str:
    caption = f":caption: {title}\n" if title else ""
    return "\n\n```{toctree}\n:hidden:\n:maxdepth: 2\n" + caption + "\n" + "\n".join(entries) + "\n```\n"


def main() -> int:
    """Build the site; return the exit status."""
    output = Path(sys.argv[1]).resolve()
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        gather(source)
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html"]
        status = subprocess.run([*command, "-d", f"{scratch}/trees", str(source), str(output)], check=False).returncode
    problems = foreign(output)
    print("\n".join(problems))
    return status or bool(problems)


if __name__ == "__main__":
    sys.exit(main())
