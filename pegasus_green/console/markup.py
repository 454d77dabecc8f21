"""HTML templates that escape their values."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import zip_longest
from string import Formatter
from typing import Any
from urllib.parse import urlencode


class Html(str):
    """Text that is already HTML. It is not escaped again."""

    __slots__ = ()


class _Escaping(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        """Escape a value, unless it is HTML or a list of it."""
        if isinstance(value, Html):
            return value
        if isinstance(value, list):
            return "".join(part if isinstance(part, Html) else escape(str(part)) for part in value)
        return escape(format(value, format_spec))


_FORMATTER = _Escaping()


def html(template: str, /, **values: Any) -> Html:
    """Fill an HTML template. Every value is escaped, except ``Html`` and lists of it."""
    return Html(_FORMATTER.vformat(template, (), values))


def join(parts: Iterable[Html]) -> Html:
    """Concatenate pieces of HTML."""
    return Html("".join(parts))


def _kind(cell: object) -> Html:
    return Html(' class="n"') if isinstance(cell, int) else Html()


def table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[object]]) -> Html:
    """Return a table that scrolls horizontally if it is too wide. Numbers are right-aligned."""
    listed = [list(row) for row in rows]
    kinds = [_kind(cell) for cell in listed[0]] if listed else []
    head = join(
        html('<th scope="col"{kind}>{name}</th>', kind=kind, name=name)
        for name, kind in zip_longest(heads, kinds, fillvalue=Html())
    )
    body = []
    for row in listed:
        cells = [
            html("<td{kind}>{text}</td>", kind=_kind(cell), text=f"{cell:,}" if isinstance(cell, int) else cell)
            for cell in row
        ]
        body.append(html("<tr>{cells}</tr>", cells=join(cells)))
    return html(
        '<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        "<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>",
        caption=caption,
        head=head,
        body=join(body) or html('<tr><td colspan="9">none</td></tr>'),
    )


def link(base: str, path: str, text: object, **params: str) -> Html:
    """Return a link to a page of the console."""
    return html('<a href="{href}">{text}</a>', href=address(base, path, **params), text=text)


def address(base: str, path: str, **params: str) -> str:
    """Return the address of a page of the console."""
    return f"{base}{path}" + (f"?{urlencode(params)}" if params else "")
