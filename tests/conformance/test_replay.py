"""Replays the recordings of a real cluster: against engines in this process, and over TCP against a cluster."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.conformance.cluster import ClusterTable
from tests.conformance.engines import EngineTable
from tests.conformance.replay import Tally, Target, load, replay

if TYPE_CHECKING:
    from tests.conftest import Cluster

WALKS = ("walk1.jsonl.gz", "walk2.jsonl.gz", "walk3.jsonl.gz")
COUNTS = {"scenarios.jsonl.gz": 1080, "extras.jsonl": 477, WALKS[0]: 3385, WALKS[1]: 3361, WALKS[2]: 3390}
# extras needs one new partition; the other files work with any number of partitions of any age.
ANYWHERE = [name for name in COUNTS if name != "extras.jsonl"]


def check(name: str, target: Target, tally: Tally) -> None:
    report = replay(name, load(name), target)
    tally.add(name, report.answers, len(report.differences))
    report.check()
    assert report.answers == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_one_engine_gives_the_recorded_answers(name: str, tallies: dict[str, Tally]) -> None:
    check(name, EngineTable(1), tallies.setdefault("engine, 1 partition", Tally()))


@pytest.mark.parametrize("partitions", [3, 8, 64])
@pytest.mark.parametrize("name", ANYWHERE)
def test_several_engines_give_the_recorded_answers(name: str, partitions: int, tallies: dict[str, Tally]) -> None:
    tally = tallies.setdefault(f"engine, {partitions} partitions", Tally())
    check(name, EngineTable(partitions, codec=partitions == 3, seed=partitions), tally)


# extras takes long on a real cluster: it waits for records to expire and for envs to arrive.
@pytest.mark.watchdog(600)
@pytest.mark.parametrize(
    ("name", "partitions", "version"), [*((name, 1, 1) for name in COUNTS), *((name, 8, 0) for name in ANYWHERE)]
)
def test_a_cluster_gives_the_recorded_answers(
    name: str, partitions: int, version: int, cluster: Cluster, tallies: dict[str, Tally]
) -> None:
    tally = tallies.setdefault(f"cluster, header v{version}, partitions {partitions}", Tally())
    table_name = f"conformance_{uuid.uuid4().hex[:12]}"
    box = cluster.box
    with ClusterTable(
        cluster.metas,
        table_name,
        partitions,
        version=version,
        whole=name != "extras.jsonl",
        clock=box.clock if box else time.time,
        advance=box and box.advance,
        set_envs=box and box.set_envs,
    ) as table:
        check(name, table, tally)
