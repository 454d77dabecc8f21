"""The reports of a run: the table for people, the JSON for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Samples, middle, spread
from benchmarks.rows import Row


def short(value: float) -> str:
    """Return three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def as_goal(value: float | None, row: Row) -> str:
    """Return a goal as text: 1/9, 1.1 x, 15 ms."""
    if value is None:
        return "-"
    if row.judge != "ratio":
        return f"{value:,.0f} {row.unit}"
    return f"1/{1 / value:.3g}" if says_fraction(row.must, value) else f"{value:.4g} x"


def says_fraction(must: float | None, value: float) -> bool:
    """Tell whether a ratio is written as 1/n: if the goal is, or, without a goal, if the ratio is small."""
    return value < 0.5 if must is None else must <= 0.5


@dataclass
class Line:
    """A measured row; ``failed`` is the reason if there are no samples.

    Attributes:
        left_out: Whether the peer is missing, which is not a failure.
    """

    row: Row
    samples: Samples
    failed: str = ""
    left_out: bool = False

    @property
    def judged(self) -> list[float]:
        """The figure of each pair that is compared with the goal."""
        pairs = list(zip(self.samples.ours, self.samples.theirs))
        if self.row.judge == "value" or not pairs:
            return self.samples.ours
        if self.row.judge == "difference":
            return [ours - theirs for ours, theirs in pairs]
        return [ours / theirs for ours, theirs in pairs]

    @property
    def met(self) -> str:
        """Whether the goal is met: aim, must, or NO; empty where there is none."""
        row = self.row
        if self.failed or row.must is None:
            return ""
        sign = -1 if row.higher else 1
        value = sign * middle(self.judged)
        if row.aim is not None and value <= sign * row.aim:
            return "aim"
        return "must" if value <= sign * row.must else "NO"

    @property
    def as_fraction(self) -> bool:
        """Whether the figure is written as 1/n."""
        return self.row.judge == "ratio" and says_fraction(self.row.must, middle(self.judged))

    def figure(self, value: float) -> str:
        """Return a value of the figure as text."""
        return f"1/{short(1 / value)}" if self.as_fraction else short(value)

    def plain(self) -> dict[str, Any]:
        """Return the row for JSON."""
        row, samples = self.row, self.samples
        facts: dict[str, Any] = {"row": row.key, "title": row.title, "against": row.against, "unit": row.unit}
        if self.failed:
            return {**facts, "left out" if self.left_out else "failed": self.failed}
        facts |= {"ours": middle(samples.ours), "ours quartiles": spread(samples.ours)}
        if samples.theirs:
            facts |= {"theirs": middle(samples.theirs), "theirs quartiles": spread(samples.theirs)}
        facts |= {"judged": row.judge, "figure": middle(self.judged), "figure quartiles": spread(self.judged)}
        facts |= {"must": row.must, "aim": row.aim, "higher is better": row.higher, "met": self.met}
        facts |= {"responder": samples.responder, "memory, MiB": samples.memory, "notes": samples.notes}
        return {**facts, "samples": {"ours": samples.ours, "theirs": samples.theirs}}


def said(value: float, row: dict[str, Any], form: str = "") -> str:
    """Return a goal or a figure of a JSON row as text with its unit."""
    if row["judged"] == "ratio" and says_fraction(row["must"], value):
        return f"1/{1 / value:.3g}" if form else f"1/{short(1 / value)}"
    return f"{format(value, form) if form else short(value)} {'x' if row['judged'] == 'ratio' else row['unit']}"


def sizes(memory: list[float]) -> str:
    """Return the memory of the sides as text: 31.2 / 56.3."""
    return " / ".join(short(size) for size in memory)


def markdown(result: dict[str, Any]) -> str:
    """Return the Markdown table of a stored result."""
    machine = result["machine"]
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; load before {machine['load before']}"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"{result['date'][:10]}; {place}; {versions}; medians of {result['pairs']} interleaved pairs (quartiles).",
        "",
        "| what | ours | theirs | figure | must | aim | met | memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        reason = row.get("left out") or row.get("failed")
        if reason:
            lines.append(f"| {row['title']} | | | {reason} | | | | |")
            continue
        ours = f"{short(row['ours'])} {row['unit']}"
        theirs = f"{row['against']}: {short(row['theirs'])} {row['unit']}" if "theirs" in row else ""
        low, high = (said(value, row).split(" ")[0] for value in row["figure quartiles"])
        figure = f"{said(row['figure'], row)} ({low} .. {high})"
        must, aim = ("" if row[goal] is None else said(row[goal], row, ",.6g") for goal in ("must", "aim"))
        memory = sizes(row["memory, MiB"])
        lines.append(f"| {row['title']} | {ours} | {theirs} | {figure} | {must} | {aim} | {row['met']} | {memory} |")
    return "\n".join(lines)


HEAD = (
    f"{'row':10} {'what':40} {'ours':>8} {'quartiles':>15} {'':4} {'theirs':>8} {'of':14}"
    f" {'ratio':>8} {'quartiles':>15} {'must':>10} {'aim':>10} {'met':5} {'responder':>9} {'memory, MiB':>11}"
)


def text(line: Line) -> str:
    """Return one row of the table, with its notes below it."""
    row, samples = line.row, line.samples
    start = f"{row.key:10} {row.title:40}"
    if line.failed:
        return f"{start} {'left out' if line.left_out else 'FAILED'}: {line.failed}"
    low, high = (short(value) for value in spread(samples.ours))
    ratio = [line.figure(value) for value in (middle(line.judged), *spread(line.judged))]
    if row.judge == "value":
        ratio = ["", "", ""]
    theirs = short(middle(samples.theirs)) if samples.theirs else ""
    busy = "" if samples.responder is None else f"{samples.responder:.0%}"
    between = f"{ratio[1]}..{ratio[2]}" if ratio[1] else ""
    parts = [
        f"{start} {short(middle(samples.ours)):>8} {low + '..' + high:>15} {row.unit:4} {theirs:>8} {row.against:14}",
        f"{ratio[0]:>8} {between:>15} {as_goal(row.must, row):>10} {as_goal(row.aim, row):>10} {line.met:5}",
        f"{busy:>9} {sizes(samples.memory):>11}",
    ]
    return "\n".join([" ".join(parts).rstrip(), *(f"{'':10} ({note})" for note in samples.notes)])


def summary(lines: list[Line]) -> str:
    """Return how many goals are met."""
    judged = [line for line in lines if line.met]
    missed = [line.row.key for line in judged if line.met == "NO"]
    aims = sum(line.met == "aim" for line in judged)
    absent = [line.row.key for line in lines if line.failed]
    words = [f"{len(judged) - len(missed)} of {len(judged)} musts met, {aims} aims"]
    if missed:
        words.append(f"not met: {', '.join(missed)}")
    if absent:
        words.append(f"without a figure: {', '.join(absent)}")
    return "; ".join(words)


def write_json(path: Path, lines: list[Line], about: dict[str, Any]) -> None:
    """Write all measurements."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "rows": [line.plain() for line in lines]}, indent=1) + "\n", encoding="utf-8")
