"""Java property files."""

from __future__ import annotations

import os
import re

from ..errors import InvalidArgument

# A real file has about 30 lines.
MAX_SIZE = 1024 * 1024
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
# The name ends at the first =, : or blank without a backslash before it.
_PAIR = re.compile(r"((?:\\.|[^\\=:\s])*)\s*[=:]?\s*(.*)", re.DOTALL)


def read_properties(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the properties of a file, with the blanks around their values removed.

    Raises:
        InvalidArgument: The file cannot be read.
    """
    try:
        # Some editors write a byte order mark before the first name.
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            text = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise InvalidArgument(f"the property file {os.fspath(path)!r} cannot be read: {error.strerror}") from None
    if len(text) > MAX_SIZE:
        raise InvalidArgument(f"the property file {os.fspath(path)!r} is larger than {MAX_SIZE} characters")
    return parse_properties(text)


def parse_properties(text: str) -> dict[str, str]:
    """Return the pairs of a property file. If a name occurs twice, the later one counts."""
    found = {}
    for line in _logical_lines(text):
        match = _PAIR.fullmatch(line)
        if match is not None:
            found[_unescape(match[1])] = _unescape(match[2]).strip()
    return found


def _logical_lines(text: str) -> list[str]:
    """Return the lines without comments. A line with an odd number of backslashes at its end continues in the next."""
    lines, held = [], ""
    for line in text.splitlines():
        line = line.lstrip()
        if not held and (not line or line[0] in "#!"):
            continue
        slashes = len(line) - len(line.rstrip("\\"))
        if slashes % 2:
            held += line[:-1]
        else:
            lines.append(held + line)
            held = ""
    return [*lines, held] if held else lines


def _unescape(text: str) -> str:
    def meaning(match: re.Match[str]) -> str:
        what = match[1]
        return chr(int(what[1:], 16)) if len(what) == 5 else _NAMED.get(what, what)

    return _ESCAPE.sub(meaning, text)
