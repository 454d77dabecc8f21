"""The picture of a result: `python -m benchmarks.picture benchmarks/results/latest.json`, PNG and SVG beside it.

The left part shows the CPU time of calls and that of the peers. The right part shows each figure divided by its goal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

COLOURS = {
    "pegasus_green": "#2e8b57",
    "pypegasus3": "#b0563c",
    "redis-py + hiredis": "#7a7fb8",
    "raw gevent socket": "#9a9a9a",
}
# Group, then row, side and client of each bar.
GROUPS = (
    (
        "get, 64 callers",
        (
            ("get64", "ours", "pegasus_green"),
            ("get64", "theirs", "pypegasus3"),
            ("redis64", "theirs", "redis-py + hiredis"),
        ),
    ),
    ("set, 64 callers", (("set64", "ours", "pegasus_green"), ("set64", "theirs", "pypegasus3"))),
    (
        "get, 1 caller",
        (
            ("get1raw", "ours", "pegasus_green"),
            ("get1raw", "theirs", "raw gevent socket"),
            ("get1", "theirs", "pypegasus3"),
            ("redis1", "theirs", "redis-py + hiredis"),
        ),
    ),
    ("a row of\na table scan", (("scan", "ours", "pegasus_green"), ("scan", "theirs", "pypegasus3"))),
    ("a row of\nmulti_get", (("multiget", "ours", "pegasus_green"), ("multiget", "theirs", "pypegasus3"))),
)


def costs(axes: Any, rows: dict[str, dict[str, Any]]) -> None:
    """Draw the CPU time of calls as bars with quartiles, grouped by kind of call."""
    place, ticks, names = 0.0, [], []
    for title, bars in GROUPS:
        begin = place
        for row, side, who in bars:
            found = rows.get(row, {})
            if side not in found:
                continue
            value, (low, high) = found[side], found[f"{side} quartiles"]
            error = [[max(value - low, 0)], [max(high - value, 0)]]
            axes.barh(place, value, 0.8, color=COLOURS[who], xerr=error, error_kw={"elinewidth": 1, "capsize": 2.5})
            axes.annotate(f"{value:.3g}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
            place += 1
        if place > begin:
            ticks.append((begin + place - 1) / 2)
            names.append(title)
            place += 0.7
    axes.set_yticks(ticks, names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("CPU time a call, microseconds (log scale)")
    axes.set_xlim(right=axes.get_xlim()[1] * 1.6)
    handles = [Line2D([], [], marker="s", linestyle="", color=colour, label=who) for who, colour in COLOURS.items()]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.4, 1.13), ncols=2, frameon=False, fontsize=8)


def goals(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Draw each figure divided by its goal; goals left of the line are met."""
    names = []
    for place, row in enumerate(rows):
        flip = row["higher is better"]

        def share(value: float, must: float = row["must"], flip: bool = flip) -> float:
            return must / value if flip else value / must

        value = max(share(row["figure"]), 0)
        low, high = sorted(max(share(edge), 0) for edge in row["figure quartiles"])
        colour = {"aim": "#2e8b57", "must": "#8fc3a5", "NO": "#c0392b"}[row["met"]]
        error = [[max(value - low, 0)], [max(high - value, 0)]]
        axes.barh(place, value, 0.7, color=colour, xerr=error, error_kw={"elinewidth": 1, "capsize": 2})
        if row["aim"] is not None:
            axes.plot([share(row["aim"])] * 2, [place - 0.42, place + 0.42], color="#333333", linewidth=1.5)
        against = f" / {row['against']}" if row["against"] not in ("", "young", "none") else ""
        names.append(row["title"] + against)
    axes.axvline(1, color="#333333", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), names, fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 2)
    axes.set_xlabel('figure / goal "must"; the marks: the goal "aim"')
    handles = [
        Line2D([], [], marker="s", linestyle="", color=colour, label=name)
        for name, colour in (("aim met", "#2e8b57"), ("must met", "#8fc3a5"), ("not met", "#c0392b"))
    ]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.35, 1.08), ncols=3, frameon=False, fontsize=8)


def main(source: Path) -> None:
    """Draw the picture of a result."""
    result = json.loads(source.read_text(encoding="utf-8"))
    rows = {row["row"]: row for row in result["rows"]}
    judged = [row for row in result["rows"] if row.get("met")]
    mpl.rcParams.update({"svg.hashsalt": "pegasus_green", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 6.2), width_ratios=(1, 0.8), layout="constrained")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    costs(left, rows)
    goals(right, judged)
    versions, machine = result["versions"], result["machine"]
    shown = ("pegasus_green", "Python", "gevent", "pypegasus3", "redis", "hiredis")
    about = [f"{name} {versions[name]}" for name in shown if name in versions]
    figure.suptitle(
        f"{result['date'][:10]}, {machine['cpu']}, {machine['cores']} cores: {', '.join(about)}\n"
        f"medians and quartiles of {result['pairs']} interleaved pairs",
        fontsize=8,
        color="#555555",
    )
    figure.savefig(source.with_suffix(".png"), dpi=130)
    figure.savefig(source.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
