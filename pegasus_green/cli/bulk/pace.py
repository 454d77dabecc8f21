"""Speed of a long command: limits, and the display of progress."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any

import click
import gevent

from ..text import counted, show_duration, show_size

# Without a terminal, a progress line is printed at this interval.
LINE_SECONDS = 10.0
REFRESH_SECONDS = 0.25
# After a pause, the command may be ahead of an even pace by this many seconds.
BURST_SECONDS = 0.2


class Limit:
    """A limit of rows and bytes per second.

    Attributes:
        chunk: Number of rows that are processed at once, so that the pace is even.
    """

    def __init__(self, rows: float | None, size: float | None, chunk: int) -> None:
        """Limit rows and bytes per second; None: no limit."""
        self._rows, self._size = rows, size
        self._next = 0.0
        self.chunk = chunk if rows is None else max(min(chunk, int(rows / 10)), 1)

    def wait(self, rows: int, size: int) -> None:
        """Wait until this many rows and bytes may be processed."""
        took = max(rows / self._rows if self._rows else 0.0, size / self._size if self._size else 0.0)
        if not took:
            return
        now = monotonic()
        self._next = max(self._next, now - BURST_SECONDS)
        if self._next > now:
            gevent.sleep(self._next - now)
        self._next += took


class Progress:
    """Rows, bytes, rate, remaining time and errors, on stderr: a bar on a terminal, otherwise a line every 10 s.

    Attributes:
        rows: Number of processed rows, with those of earlier runs.
        size: Bytes of these rows.
        errors: Number of errors.
        total: Total number of rows, if it is known.
    """

    def __init__(self, title: str, rows: int = 0, size: int = 0, *, quiet: bool = False) -> None:
        """Start with the numbers of an earlier run."""
        self.title, self.rows, self.size, self.errors = title, rows, size, 0
        self._first = (rows, size)
        self.total: int | None = None
        self.done: Callable[[], int] = lambda: self.rows
        self._began = monotonic()
        self._quiet = quiet
        self._live: Any = None
        self._shown = 0.0
        self._line_at = self._began + LINE_SECONDS
        self._told = 0

    def __enter__(self) -> Progress:  # noqa: PYI034 - Self is not in Python 3.10
        """Show the bar if there is a terminal."""
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        if self._live is not None:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """Seconds of this run."""
        return max(monotonic() - self._began, 1e-6)

    @property
    def rate(self) -> float:
        """Rows per second of this run."""
        return (self.rows - self._first[0]) / self.seconds

    def add(self, rows: int, size: int) -> None:
        """Count rows, and update the display if the interval has passed."""
        self.rows += rows
        self.size += size
        now = monotonic()
        if self._live is not None and now - self._shown >= REFRESH_SECONDS:
            self._shown = now
            self._live.update(self._picture(), refresh=True)
        elif self._live is None and not self._quiet and now >= self._line_at:
            self._line_at = now + LINE_SECONDS
            click.echo(self._text(), err=True)

    def note(self, text: str) -> None:
        """Print a message above the bar."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)

    def error(self, text: str) -> None:
        """Count an error. The first ten are printed."""
        self.errors += 1
        self._told += 1
        if self._told <= 10:
            self.note(f"error: {text}" + (" (further errors are not printed)" if self._told == 10 else ""))

    def _share(self) -> float | None:
        return min(self.done() / self.total, 1.0) if self.total else None

    def _text(self) -> str:
        share = self._share()
        parts = [
            f"{self.title}: {counted(self.rows, 'row')}",
            show_size(self.size),
            f"{self.rate:,.0f} rows/s",
            f"{show_size((self.size - self._first[1]) / self.seconds)}/s",
        ]
        if share:
            parts.insert(1, f"{share:.0%}")
            parts.append(f"{show_duration(self.seconds * (1 - share) / share)} left")
        parts.append(counted(self.errors, "error"))
        return ", ".join(parts)

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar

        share = self._share()
        bar = ProgressBar(total=1.0, completed=share or 0.0, pulse=share is None, width=None)
        return Group(self._text(), bar)

    def report(self, verb: str) -> tuple[str, dict[str, Any]]:
        """Return the result as a sentence and as fields."""
        errors = f", {counted(self.errors, 'error')}" if self.errors else ""
        text = (
            f"{verb} {counted(self.rows, 'row')}, {show_size(self.size)}, in {self.seconds:.1f} s"
            f" ({self.rate:,.0f} rows/s{errors})"
        )
        facts = {"rows": self.rows, "bytes": self.size, "seconds": round(self.seconds, 3), "errors": self.errors}
        return text, facts
