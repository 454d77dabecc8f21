"""Test splits of tables by client.admin: start, progress, pause, cancel, and refused requests."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from pegasus_green import Client, MetaError, PartitionInfo, SplitState, SplitStatus
from pegasus_green.admin import Admin
from pegasus_green.onebox import Onebox


@pytest.fixture
def box() -> Iterator[Onebox]:
    """Serve a cluster of the test's own, with two tables."""
    with Onebox(replicas=4, tables={"temp": 8, "odd": 3}) as box:
        yield box
        assert box.client_bugs == []
        assert box.errors == []


@pytest.fixture
def boss(box: Onebox) -> Iterator[Admin]:
    with Client(box.meta_addresses) as client:
        yield client.admin


@pytest.mark.onebox_only
def test_a_split_is_started_and_watched(box: Onebox, boss: Admin) -> None:
    box.configure(split_seconds=60.0)
    assert boss.split_status("temp") is None
    boss.start_split("temp", 16)
    status = boss.split_status("temp")
    assert status == SplitStatus(16, dict.fromkeys(range(8), SplitState.SPLITTING))
    assert repr(status) == "<Split to 16 partitions, 0 of 8 done, SPLITTING>"
    assert boss.table_info("temp").partition_count == 16
    partitions = boss.partitions("temp")
    assert [p.ballot for p in partitions[8:]] == [-1] * 8
    assert partitions[8] == PartitionInfo(8, -1, "", (), partitions[8].replica_count)
    with pytest.raises(MetaError) as caught:
        boss.start_split("temp", 32)
    assert caught.value.code == "ERR_BUSY"
    with pytest.raises(MetaError) as caught:
        boss.drop_table("temp")
    assert caught.value.code == "ERR_SPLITTING"
    box.finish_split("temp")
    assert boss.split_status("temp") is None
    assert boss.is_healthy("temp")
    assert len(boss.partitions("temp")) == 16


@pytest.mark.onebox_only
def test_pausing_and_cancelling_a_split(box: Onebox, boss: Admin) -> None:
    box.configure(split_seconds=30.0, split_control_delay=0.05)
    for verb in (boss.pause_split, boss.resume_split, boss.cancel_split):
        with pytest.raises(MetaError) as caught:
            verb("temp")
        assert caught.value.code == "ERR_INVALID_STATE"
    boss.start_split("temp", 16)
    boss.pause_split("temp", 3)
    gevent.sleep(0.1)
    status = boss.split_status("temp")
    assert status is not None
    assert {index: SplitState(state).name for index, state in status.parents.items()} == {
        index: "PAUSED" if index == 3 else "SPLITTING" for index in range(8)
    }
    with pytest.raises(MetaError, match="ERR_INVALID_STATE"):
        boss.pause_split("temp", 3)
    with pytest.raises(MetaError, match="ERR_INVALID_PARAMETERS"):
        boss.pause_split("temp", 8)
    # For all partitions: those in a matching state, without an error for the others.
    boss.resume_split("temp")
    boss.pause_split("temp")
    gevent.sleep(0.1)
    boss.pause_split("temp")
    boss.resume_split("temp")
    boss.resume_split("temp")
    status = boss.split_status("temp")
    assert status is not None
    assert set(status.parents.values()) == {SplitState.SPLITTING}
    boss.cancel_split("temp")
    gevent.sleep(0.1)
    assert boss.split_status("temp") is None
    assert len(boss.partitions("temp")) == 8


@pytest.mark.onebox_only
def test_splits_that_would_lose_keys_are_refused_before_sending(box: Onebox, boss: Admin) -> None:
    starts = box.leader.requests.get("RPC_CM_START_PARTITION_SPLIT", 0) if box.leader else 0
    with pytest.raises(ValueError, match="not a power of two"):
        boss.start_split("odd", 6)
    for count in (8, 4, 12, 32):
        with pytest.raises(ValueError, match="can be split only into 16"):
            boss.start_split("temp", count)
    assert box.leader is not None
    assert box.leader.requests.get("RPC_CM_START_PARTITION_SPLIT", 0) == starts
