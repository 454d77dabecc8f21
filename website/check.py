"""Find the addresses of other hosts that the pages of a built site would load."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

# Attributes whose address a browser loads by itself. The href of a link is not one: the reader clicks it.
FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("audio", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("link", "href"),
    ("use", "href"),
    ("form", "action"),
}
ELSEWHERE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            fetched = (tag, name) in FETCHED and ELSEWHERE.match(value or "")
            if fetched or (name == "style" and IN_STYLE.search(value or "")):
                self.found.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.found += [f"style {address}" for address in IN_STYLE.findall(data)]


def foreign(site: Path) -> list[str]:
    """Return a line for each address of another host that a page or a style sheet would fetch."""
    problems = []
    for path in sorted(site.rglob("*")):
        if path.suffix == ".html":
            reader = _Reader()
            reader.feed(path.read_text(encoding="utf-8"))
            problems += [f"{path.relative_to(site)}: {found}" for found in reader.found]
        elif path.suffix == ".css":
            found = IN_STYLE.findall(path.read_text(encoding="utf-8"))
            problems += [f"{path.relative_to(site)}: {address}" for address in found]
    return problems
