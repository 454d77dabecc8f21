"""Pictures as inline SVG. Colours are attributes, because the content policy allows no style on an element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from ..admin.model import PartitionInfo
from .history import MINUTES
from .markup import Html, html, join

PRIMARY, SECONDARY, EMPTY, LINE, LOST = "#07577d", "#8fc1da", "#eceff1", "#07577d", "#a3160d"
# Widest column of the picture of partitions, and the width that narrower ones should fit in, in pixels.
CELL, WIDTH = 14, 1040


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


def placement(partitions: Sequence[PartitionInfo], nodes: Sequence[str], dead: AbstractSet[str] = frozenset()) -> Html:
    """Draw the placement of partitions: a row for each node, a column for each partition.

    The names of the nodes stay in place while the columns scroll.
    """
    step = min(max(WIDTH // max(len(partitions), 1), 4), CELL)
    inner, wide = step - (2 if step > 8 else 1), len(partitions) * step
    names, cells = [], []
    for y, node in enumerate(nodes):
        mark = Html(f' fill="{LOST}" font-weight="bold"') if node in dead else Html()
        words = f"{node} (dead)" if node in dead else node
        names.append(html('<text x="0" y="{y}"{mark}>{words}</text>', y=y * 20 + 32, mark=mark, words=words))
        cells.append(
            html(
                '<rect x="0" y="{y}" width="{wide}" height="16" fill="{color}"/>', y=y * 20 + 20, wide=wide, color=EMPTY
            )
        )
        for x, part in enumerate(partitions):
            if part.primary == node or node in part.secondaries:
                kind = "primary" if part.primary == node else "secondary"
                words = f"partition {part.index}: {kind} on {node}"
                cells.append(_cell(x * step, y * 20 + 20, inner, PRIMARY if kind == "primary" else SECONDARY, words))
    # A split child that is not ready yet lacks nothing.
    lost = [x for x, part in enumerate(partitions) if not part.primary and part.ballot >= 0]
    for x in lost:
        words = f"partition {partitions[x].index} has no primary"
        cells.append(_cell(x * step, 20, inner, LOST, words, height=len(nodes) * 20 - 4))
    cells += [
        html('<text x="{x}" y="12">{index}</text>', x=x * step, index=partitions[x].index)
        for x in range(0, len(partitions), 8)
    ]
    height = len(nodes) * 20 + 24
    return html(
        '<p class="note">{primary} primary {secondary} secondary{lost}; a column is a partition</p>'
        '<div class="placement"><svg width="{left}" height="{height}" aria-hidden="true">{names}</svg>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Partitions over nodes"><svg width="{width}"'
        ' height="{height}" role="img" aria-label="Partitions over nodes; the list below has the same content">'
        "{cells}</svg></div></div>",
        primary=_key(PRIMARY),
        secondary=_key(SECONDARY),
        lost=html(" {key} no primary", key=_key(LOST)) if lost else Html(),
        left=8 + max((len(node) + 7 * (node in dead) for node in nodes), default=4) * 7,
        width=wide + 8,
        height=height,
        names=join(names),
        cells=join(cells),
    )


def _cell(x: int, y: int, width: int, color: str, title: str, *, height: int = 16) -> Html:
    return html(
        '<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{color}"><title>{title}</title></rect>',
        x=x,
        y=y,
        width=width,
        height=height,
        color=color,
        title=title,
    )
