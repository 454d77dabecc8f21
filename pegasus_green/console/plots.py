"""Pictures as inline SVG. Colours are attributes, because the content policy allows no style on an element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..admin.model import PartitionInfo
from .history import MINUTES
from .markup import Html, html, join

PRIMARY, SECONDARY, EMPTY, LINE = "#07577d", "#8fc1da", "#eceff1", "#07577d"
CELL = 14


def line(title: str, points: Sequence[tuple[float, float]]) -> Html:
    """Draw a line over the last minutes.

    Args:
        title: Title with the unit.
        points: (seconds before now, number), the oldest first.
    """
    newest = points[-1][1] if points else 0.0
    most = max((number for _, number in points), default=0.0)
    scale = 54 / most if most > 0 else 0.0
    width = 300 / (MINUTES * 60)
    path = " ".join(f"{300 - before * width:.1f},{58 - number * scale:.1f}" for before, number in points)
    return html(
        '<figure><figcaption>{title}: <b>{newest}</b>, at most {most}</figcaption><svg viewBox="0 0 300 60"'
        ' preserveAspectRatio="none" role="img" aria-label="{title} in the last {minutes} minutes: {newest} now,'
        ' {most} at most"><polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"'
        ' vector-effect="non-scaling-stroke"/></svg><div class="axis"><span>{minutes} min ago</span>'
        "<span>now</span></div></figure>",
        title=title,
        newest=_number(newest),
        most=_number(most),
        path=path,
        color=LINE,
        minutes=MINUTES,
    )


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"


def seconds(number: float) -> str:
    """Return a duration in a suitable unit."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number * 1e6:.3g} µs"


def histogram(title: str, counts: Mapping[float, int]) -> Html:
    """Draw a histogram of call durations, with a bar for each upper bound in seconds."""
    if not counts:
        return html('<p class="note">{title}: no successful call yet.</p>', title=title)
    most, total = max(counts.values()), sum(counts.values())
    rows = []
    for step, (upper, count) in enumerate(sorted(counts.items())):
        rows.append(
            html(
                '<text x="72" y="{y}" text-anchor="end">{upper}</text><rect x="80" y="{top}" width="{width}"'
                ' height="12" fill="{color}"/><text x="{end}" y="{y}">{count}</text>',
                y=step * 18 + 13,
                top=step * 18 + 3,
                upper="≤ " + seconds(upper),
                width=f"{max(count / most * 160, 1):.1f}",
                color=PRIMARY,
                end=f"{86 + count / most * 160:.1f}",
                count=f"{count:,}",
            )
        )
    return html(
        '<figure><figcaption>{title}: {total} calls by time</figcaption><div class="scroll" tabindex="0" role="region"'
        ' aria-label="{title}"><svg width="320" height="{height}" role="img" aria-label="{title}: calls by'
        ' time">{rows}</svg></div></figure>',
        title=title,
        total=f"{total:,}",
        height=len(rows) * 18 + 4,
        rows=join(rows),
    )


def _key(color: str) -> Html:
    return html(
        '<svg class="key" viewBox="0 0 9 9" aria-hidden="true"><rect width="9" height="9" fill="{color}"/></svg>',
        color=color,
    )


def placement(partitions: Sequence[PartitionInfo], nodes: Sequence[str]) -> Html:
    """Draw the placement of partitions: a row for each node, a column for each partition."""
    left = 8 + max((len(node) for node in nodes), default=4) * 7
    cells = []
    for y, node in enumerate(nodes):
        cells.append(html('<text x="0" y="{y}">{node}</text>', y=y * 20 + 32, node=node))
        for x, part in enumerate(partitions):
            kind = "primary" if part.primary == node else "secondary" if node in part.secondaries else "no replica"
            color = {"primary": PRIMARY, "secondary": SECONDARY}.get(kind, EMPTY)
            cells.append(
                html(
                    '<rect x="{x}" y="{y}" width="12" height="16" fill="{color}"><title>partition {index}: {kind} on'
                    " {node}</title></rect>",
                    x=left + x * CELL,
                    y=y * 20 + 20,
                    color=color,
                    index=part.index,
                    kind=kind,
                    node=node,
                )
            )
    cells += [
        html('<text x="{x}" y="12">{index}</text>', x=left + x * CELL, index=partitions[x].index)
        for x in range(0, len(partitions), 8)
    ]
    return html(
        '<p class="note">{primary} primary {secondary} secondary; a column is a partition</p><div class="scroll"'
        ' tabindex="0" role="region" aria-label="Partitions over nodes"><svg width="{width}" height="{height}"'
        ' role="img" aria-label="Partitions over nodes; the list below has the same content">{cells}</svg></div>',
        primary=_key(PRIMARY),
        secondary=_key(SECONDARY),
        width=left + len(partitions) * CELL + 16,
        height=len(nodes) * 20 + 24,
        cells=join(cells),
    )
