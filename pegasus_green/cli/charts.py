"""Charts of a ``bench`` run: in the terminal during the run, and as a picture after it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from .latencies import Latencies

FORMATS = (".png", ".svg")
BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT = 6
WIDTH = 72
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)


@dataclass(frozen=True)
class Second:
    """One second of a run: number of calls, and milliseconds within which half and 99 % of them ended."""

    calls: int
    p50: float
    p99: float


def columns(values: list[float], height: int = HEIGHT) -> list[str]:
    """Return lines of block characters, the top line first. Each value is a column."""
    top = max(values, default=0.0) or 1.0
    eighths = [round(value / top * height * 8) for value in values]
    return ["".join(BLOCKS[min(max(found - 8 * row, 0), 8)] for found in eighths) for row in range(height - 1, -1, -1)]


class LiveChart:
    """A live chart of calls per second and latency; needs rich and a terminal."""

    def __init__(self) -> None:
        """Start to draw.

        Raises:
            ImportError: rich is not installed.
        """
        from rich.console import Console
        from rich.live import Live

        self._live: Any = Live(console=Console(), auto_refresh=False)
        self._live.start()

    def show(self, seconds: list[Second], errors: int) -> None:
        """Draw the seconds up to now."""
        from rich.text import Text

        shown = seconds[-WIDTH:]
        last = shown[-1]
        text = Text()
        charts = (
            ("calls/s", [float(one.calls) for one in shown], f"{last.calls:,}", "green"),
            ("p99 ms", [one.p99 for one in shown], f"{last.p99:,.3f}", "yellow"),
        )
        for name, values, now, style in charts:
            text.append(f"{name}  now {now}, max {max(values):,.3f}\n".replace(".000", ""), style="bold")
            for line in columns(values):
                text.append(line + "\n", style=style)
        text.append(f"{len(seconds)} s   p50 {last.p50:,.3f} ms   errors {errors:,}", style="red" if errors else "")
        self._live.update(text, refresh=True)

    def end(self) -> None:
        """Leave the last chart on the terminal."""
        self._live.stop()


def live_chart() -> LiveChart | None:
    """Return a chart if there are a terminal and rich; else None."""
    if not sys.stdout.isatty():
        return None
    try:
        return LiveChart()
    except ImportError:
        return None


def check_plot(path: str) -> str:
    """Check that a picture can be written to a path, and return the path.

    Raises:
        InvalidArgument: The path does not end in .png or .svg, or matplotlib is not installed.
    """
    if not path.endswith(FORMATS):
        raise InvalidArgument(f"the name of a plot must end in {' or '.join(FORMATS)}, not {path!r}")
    if find_spec("matplotlib") is None:
        raise InvalidArgument("a plot needs matplotlib: pip install matplotlib")
    return path


def save_plot(path: str, title: str, seconds: list[Second], latencies: dict[str, Latencies]) -> None:
    """Draw a run: calls per second, latency over time, and latency by percentile for each operation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(12, 4), layout="constrained")
    figure.suptitle(title)
    rate, time, share = figure.subplots(1, 3)
    at = range(1, len(seconds) + 1)
    rate.plot(at, [one.calls for one in seconds], marker=".")
    rate.set(title="calls per second", xlabel="second", ylim=(0, None))
    time.plot(at, [one.p50 for one in seconds], marker=".", label="p50")
    time.plot(at, [one.p99 for one in seconds], marker=".", label="p99")
    time.set(title="latency by second", xlabel="second", ylabel="ms", yscale="log")
    time.legend()
    for name, found in latencies.items():
        shares = [one for one in SHARES if found.total * (1 - one) >= 1]
        share.plot([1 / (1 - one) for one in shares], [found.percentile(one) for one in shares], marker=".", label=name)
    share.set(title="latency by percentile", ylabel="ms", xscale="log", yscale="log")
    ticks = [one for one in SHARES if one >= 0.5 and one != 0.75]
    share.set_xticks([1 / (1 - one) for one in ticks], [f"p{one * 100:g}" for one in ticks])
    share.minorticks_off()
    for axes in (time, share):
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    share.legend()
    for axes in (rate, time, share):
        axes.grid(alpha=0.3)
    figure.savefig(path)
