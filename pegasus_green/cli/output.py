"""Output formats of commands: a table for people, JSON, JSON lines, CSV, or raw bytes."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from time import monotonic
from typing import Any, NamedTuple

import click
import gevent

from .text import Coding
from .threads import in_thread

FORMATS = ("table", "json", "jsonl", "csv", "raw")
# The first rows determine the column widths of a table. A wider cell later shifts the rest of its line.
WIDTH_ROWS = 200
# A cell in the first rows that has more characters than this does not count for the width of its column, and shifts the
# rest of its line. Otherwise one value of 1 MiB would make every line that long.
MAX_WIDTH = 120
FLUSH_BYTES, FLUSH_SECONDS = 64 * 1024, 0.1


class PipeClosed(Exception):
    """The reader of stdout is gone."""


class Sink:
    """A buffer before stdout. If the reader is slow, only the writing greenlet waits, not the hub."""

    def __init__(self) -> None:
        """Write to the current stdout."""
        self._parts: list[bytes] = []
        self._size = 0
        self._flushed = monotonic()
        try:
            self._fd: int | None = sys.stdout.fileno()
        except (OSError, ValueError, AttributeError):
            self._fd = None  # a test's StringIO

    def write(self, text: str | bytes) -> None:
        """Take text or bytes. They are written after 64 KiB or 0.1 s.

        Raises:
            PipeClosed: The reader is gone.
        """
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        self._parts.append(data)
        self._size += len(data)
        if self._size >= FLUSH_BYTES or monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered bytes.

        Raises:
            PipeClosed: The reader is gone.
        """
        data, self._parts, self._size = memoryview(b"".join(self._parts)), [], 0
        self._flushed = monotonic()
        if self._fd is None:
            stream = getattr(sys.stdout, "buffer", None)
            if stream is not None:
                stream.write(data)
                stream.flush()
            else:
                sys.stdout.write(bytes(data).decode("utf-8", "replace"))
            return
        sys.stdout.flush()
        while data:
            try:
                data = data[in_thread(os.write, self._fd, data) :]
            except BrokenPipeError:
                raise PipeClosed from None
            except BlockingIOError:
                gevent.sleep(0.01)  # another process has made the terminal non-blocking


class Column(NamedTuple):
    """A column of rows.

    Attributes:
        name: Heading, and key in JSON.
        kind: "key" or "value": bytes in the coding of keys or values; "plain": anything else.
        show: Formats a cell for people; None: ``str``.
        style: Colour of a cell, for ``click.style``; None: none.
        right: Whether it is a number, which is right-aligned.
    """

    name: str
    kind: str = "plain"
    show: Callable[[Any], str] | None = None
    style: Callable[[Any], str | None] | None = None
    right: bool = False


def key(name: str) -> Column:
    """Return a column of keys."""
    return Column(name, "key")


def value(name: str = "value") -> Column:
    """Return a column of values."""
    return Column(name, "value")


def number(name: str, show: Callable[[Any], str] | None = None) -> Column:
    """Return a column of numbers."""
    return Column(name, show=show or (lambda found: "" if found is None else f"{found:,}"), right=True)


def state(name: str, good: Iterable[Any], bad: Iterable[Any]) -> Column:
    """Return a column that is green for some values and red for others."""
    green, red = set(good), set(bad)
    return Column(name, style=lambda cell: "green" if cell in green else "red" if cell in red else None)


def plain(cell: Any) -> Any:
    """Return a value that JSON can express: an infinite TTL becomes null."""
    if isinstance(cell, float) and math.isinf(cell):
        return None
    if isinstance(cell, (tuple, set, frozenset)):
        return list(cell)
    return cell


class Output:
    """Prints the results of commands in the chosen format."""

    def __init__(self, form: str, keys: Coding, values: Coding, *, color: bool) -> None:
        """Set the format.

        Args:
            form: One of ``FORMATS``.
            keys: Coding of keys.
            values: Coding of values.
            color: Whether a table may be coloured.
        """
        self.form, self.keys, self.values, self.color = form, keys, values, color
        self.sink = Sink()

    @property
    def for_people(self) -> bool:
        """Whether the output is for a person."""
        return self.form == "table"

    def text(self, column: Column, cell: Any) -> Any:
        """Return a cell in its JSON form."""
        if isinstance(cell, bytes):
            return (self.keys if column.kind == "key" else self.values).encode(cell)
        return plain(cell)

    # -------------------------------------------------------------------------------------------------------- printing
    def rows(self, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> int:
        """Print rows as they come; return their number."""
        counted = 0

        def counting() -> Iterator[Sequence[Any]]:
            nonlocal counted
            for row in rows:
                counted += 1
                yield row

        getattr(self, f"_rows_{self.form}")(columns, counting())
        self.sink.flush()
        return counted

    def item(self, fields: Mapping[str, Any], columns: Mapping[str, Column] | None = None) -> None:
        """Print one object with named fields."""
        known = columns or {}
        listed = [known.get(name, Column(name)) for name in fields]
        if self.form == "json":
            cells = {column.name: self.text(column, cell) for column, cell in zip(listed, fields.values())}
            self.sink.write(json.dumps(cells, indent=2, ensure_ascii=False) + "\n")
        elif self.form == "table":
            width = max(map(len, fields), default=0)
            for column, cell in zip(listed, fields.values()):
                self.sink.write(f"{self.bold(column.name.ljust(width))}  {self._cell(column, cell)}\n")
        else:
            self.rows(listed, [list(fields.values())])
        self.sink.flush()

    def one(self, name: str, cell: Any, kind: str = "plain", **facts: Any) -> None:
        """Print one result: only the value for people and in raw form, with further fields in JSON and CSV."""
        column = Column(name, kind)
        if self.form == "raw" and isinstance(cell, bytes):
            self.sink.write(cell)
        elif self.form in ("table", "raw"):
            self.sink.write(self._cell(column, cell) + "\n")
        else:
            self.item(
                {**facts, name: cell},
                {name: column, **{fact: key(fact) for fact, found in facts.items() if isinstance(found, bytes)}},
            )
        self.sink.flush()

    def facts(self, fields: Mapping[str, Any], keys: Iterable[str] = ()) -> None:
        """Print fields, some of which are keys and values."""
        names = set(keys)
        kinds = {name: Column(name, "key" if name in names else "value") for name in fields}
        self.item(fields, kinds)

    def done(self, message: str, **facts: Any) -> None:
        """Report success: a sentence for people, the fields for scripts."""
        if self.form in ("table", "raw"):
            self.sink.write(message + "\n")
            self.sink.flush()
        else:
            self.item(facts, {name: key(name) for name, found in facts.items() if isinstance(found, bytes)})

    def note(self, message: str) -> None:
        """Print a message on stderr."""
        click.echo(message, err=True)

    # ----------------------------------------------------------------------------------------------------------- forms
    def bold(self, text: str) -> str:
        """Return a heading."""
        return click.style(text, bold=True) if self.color else text

    def _cell(self, column: Column, cell: Any) -> str:
        if isinstance(cell, bytes):
            text = str(self.text(column, cell))
        elif column.show is not None and cell is not None:
            text = column.show(cell)
        else:
            text = show(cell)
        if self.color and column.style is not None:
            return click.style(text, fg=column.style(cell))
        return text

    def _rows_table(self, columns: Sequence[Column], rows: Iterator[Sequence[Any]]) -> None:
        first = [[self._cell(c, cell) for c, cell in zip(columns, row)] for row in islice(rows, WIDTH_ROWS)]
        widths = [
            max(_width(cell) if len(cell) <= MAX_WIDTH else 0 for cell in (column.name, *(row[at] for row in first)))
            for at, column in enumerate(columns)
        ]
        heading = [column.name.upper().replace("_", " ") for column in columns]
        self.sink.write(self.bold(_line(columns, heading, widths)) + "\n")
        rest = ([self._cell(c, cell) for c, cell in zip(columns, row)] for row in rows)
        for cells in chain(first, rest):
            self.sink.write(_line(columns, cells, widths) + "\n")

    def _objects(self, columns: Sequence[Column], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
        for row in rows:
            found = {column.name: self.text(column, cell) for column, cell in zip(columns, row)}
            yield json.dumps(found, ensure_ascii=False)

    def _rows_json(self, columns: Sequence[Column], rows: Iterator[Sequence[Any]]) -> None:
        separator = "[\n"
        for text in self._objects(columns, rows):
            self.sink.write(separator + text)
            separator = ",\n"
        self.sink.write("[]\n" if separator == "[\n" else "\n]\n")

    def _rows_jsonl(self, columns: Sequence[Column], rows: Iterator[Sequence[Any]]) -> None:
        for text in self._objects(columns, rows):
            self.sink.write(text + "\n")

    def _rows_csv(self, columns: Sequence[Column], rows: Iterator[Sequence[Any]]) -> None:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")

        def write(cells: Sequence[Any]) -> None:
            writer.writerow(cells)
            self.sink.write(lines.getvalue())
            lines.seek(0)
            lines.truncate()

        write([column.name for column in columns])
        for row in rows:
            write([_csv_cell(self.text(column, cell)) for column, cell in zip(columns, row)])

    def _rows_raw(self, columns: Sequence[Column], rows: Iterator[Sequence[Any]]) -> None:
        for row in rows:
            cells = (cell if isinstance(cell, bytes) else show(plain(cell)).encode() for cell in row)
            self.sink.write(b"\t".join(cells) + b"\n")


def show(cell: Any) -> str:
    """Return a cell for people."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return "never" if math.isinf(cell) else f"{cell:,.3g}" if cell < 100 else f"{cell:,.0f}"
    if isinstance(cell, (list, tuple, set, frozenset)):
        return ", ".join(map(show, cell))
    if isinstance(cell, Mapping):
        return ", ".join(f"{name}={show(found)}" for name, found in cell.items())
    return str(cell)


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, (list, dict)):
        return json.dumps(cell, ensure_ascii=False)
    return {True: "true", False: "false"}.get(cell, cell) if isinstance(cell, bool) else cell


def _width(text: str) -> int:
    plain_text = click.unstyle(text)
    if plain_text.isascii():
        return len(plain_text)
    from rich.cells import cell_len

    return cell_len(plain_text)


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for column, cell, width in zip(columns, cells, widths):
        gap = " " * max(width - _width(cell), 0)
        parts.append(gap + cell if column.right else cell + gap)
    return "  ".join(parts).rstrip()


def wants_color(choice: str) -> bool:
    """Tell whether to colour stdout. With "auto": only a terminal, and not with NO_COLOR or TERM=dumb."""
    if choice != "auto":
        return choice == "always"
    is_dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return sys.stdout.isatty() and not is_dumb
