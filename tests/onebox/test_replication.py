"""Test replication: lag, deaths, silence and moves lose no acknowledged write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import gevent
import pytest
from gevent import socket

from pegasus_green.keys import crc64, encode_key
from pegasus_green.onebox import Onebox
from pegasus_green.protocol import rpc as rpcs
from pegasus_green.protocol import rrdb
from tests.onebox.raw import Raw, Routed, sleep

Make = Callable[..., Onebox]
KEY = encode_key(b"user1", b"name")  # partition 0 of 8
ROUTE = {"app_id": 1, "partition_index": 0, "partition_hash": crc64(b"user1")}


def put(value: bytes) -> rrdb.UpdateRequest:
    return rrdb.UpdateRequest(KEY, value)


def first(box: Onebox) -> dict[str, Any]:
    return box.partitions("temp")[0]


def backup_read(table: Routed, which: int = 0) -> bytes | None:
    secondary = table.raw(first(table.box)["secondaries"][which])
    error, answer = secondary.call(rpcs.GET, KEY, backup=True, **ROUTE)
    assert error == "ERR_OK"
    return answer.value if answer.error == 0 else None


def test_a_secondary_is_behind_by_one(table: Routed) -> None:
    table.put(b"user1", b"name", b"1")
    assert backup_read(table) is None
    for number in range(2, 6):
        table.put(b"user1", b"name", b"%d" % number)
        assert backup_read(table) == backup_read(table, 1) == b"%d" % (number - 1)
        assert table.get(b"user1", b"name") == b"%d" % number


def test_the_group_check_commits_the_last_write_at_the_secondaries(make_box: Make) -> None:
    box = make_box(group_check_interval=0.05)
    table = Routed(box)
    table.put(b"user1", b"name", b"1")
    sleep(0.12)
    assert backup_read(table) == b"1"
    box.configure(group_check_interval=100.0)
    sleep(0.1)
    table.put(b"user1", b"name", b"2")
    assert backup_read(table) == b"1"
    box.advance(101)
    assert backup_read(table) == b"2"
    table.close()


def test_decrees_count_up_and_failed_writes_count(table: Routed) -> None:
    def incr() -> Any:
        return table.call(rpcs.INCR, b"user1", rrdb.IncrRequest(KEY, 1))[1]

    table.put(b"user1", b"name", b"no number")
    before = incr()
    assert (before.error, incr().decree) == (4, before.decree + 1)


def test_atomic_idempotent_failures_leave_no_trace(box: Onebox, table: Routed) -> None:
    box.create_table("idem", 1, atomic_idempotent=True)
    table.name = "idem"
    request = rrdb.CheckAndSetRequest(b"user1", b"a", check_type=3, set_sort_key=b"a", set_value=b"v")
    assert table.call(rpcs.CHECK_AND_SET, b"user1", request)[1].decree == -1
    assert table.call(rpcs.PUT, b"user1", put(b"v"))[1].decree == 1


# ---------------------------------------------------------------------------------------------------- death of a server
def test_failover_keeps_acknowledged_writes(box: Onebox, table: Routed) -> None:
    for number in range(300):
        assert table.put(b"k%d" % number, b"s", b"%d" % number) == "ERR_OK"
    dead = first(box)["primary"]
    before = box.partitions("temp")
    with Raw(dead) as raw:
        box.kill(dead)
        with pytest.raises((ConnectionResetError, EOFError)):
            raw.call(rpcs.GET, KEY, **ROUTE)
    with pytest.raises(ConnectionRefusedError):
        Raw(dead)
    sleep(0.05)
    assert first(box)["primary"] == dead
    sleep(0.1)
    for old, new in zip(before, box.partitions("temp"), strict=True):
        assert new["primary"] not in (None, dead)
        assert dead not in new["secondaries"]
        assert new["ballot"] == old["ballot"] + 1
    table.close()
    for number in range(300):
        assert table.get(b"k%d" % number, b"s") == b"%d" % number
    # The primaries of the dead server moved to more than one server.
    heirs = {n["primary"] for o, n in zip(before, box.partitions("temp"), strict=True) if o["primary"] == dead}
    assert len(heirs) == 2
    box.restart(dead)
    sleep(0.1)
    assert all(len(part["secondaries"]) == 2 for part in box.partitions("temp"))
    box.balance()
    assert max(box.stats()["servers"], key=lambda server: server["primaries"])["primaries"] == 3
    table.close()
    assert [table.get(b"k%d" % number, b"s") for number in range(9)] == [b"%d" % number for number in range(9)]


def test_requests_are_refused_while_there_is_no_primary(make_box: Make) -> None:
    box = make_box(failover_gap=0.1)
    dead = first(box)["primary"]
    box.kill(dead)
    sleep(0.15)
    assert first(box)["primary"] is None
    assert first(box)["ballot"] > 3
    sleep(0.1)
    assert first(box)["primary"] is not None


def test_writes_hang_while_a_secondary_is_silent(make_box: Make) -> None:
    box = make_box(failover_delay=2.0, removal_delay=0.15)
    table = Routed(box)
    with Raw(first(box)["primary"]) as raw:
        box.pause(first(box)["secondaries"][0])
        raw.send(rpcs.PUT, put(b"1"), **ROUTE)
        assert raw.is_silent(0.08)
        # Not committed, so a read does not see it.
        assert raw.call(rpcs.GET, KEY, seqid=99, **ROUTE)[1].error == 1
        reply, _ = raw.reply()
        assert (reply.seqid, reply.error) == (1, "ERR_OK")
        assert len(first(box)["secondaries"]) == 1
        assert table.get(b"user1", b"name") == b"1"
    table.close()


def test_a_write_succeeds_after_a_short_silence_of_a_secondary(make_box: Make) -> None:
    box = make_box(failover_delay=2.0)
    table = Routed(box)
    silent = first(box)["secondaries"][0]
    with Raw(first(box)["primary"]) as raw:
        box.pause(silent)
        for number in range(3):
            raw.send(rpcs.PUT, put(b"%d" % number), **ROUTE)
        assert raw.is_silent(0.03)
        box.resume(silent)
        assert [raw.reply()[0].seqid for _ in range(3)] == [1, 2, 3]
    box.settle()
    assert backup_read(table) == backup_read(table, 1) == b"2"
    table.close()


def test_a_write_in_flight_at_a_dying_primary_is_executed_once(make_box: Make) -> None:
    """The next primary has the write in its log; the write was not acknowledged, it survives and is executed once."""
    box = make_box(failover_delay=0.1, removal_delay=1.0)
    table = Routed(box)
    config = first(box)
    with Raw(config["primary"]) as raw:
        box.pause(config["secondaries"][0])
        raw.send(rpcs.INCR, rrdb.IncrRequest(KEY, 5), **ROUTE)
        assert raw.is_silent(0.03)
        assert box.executions(KEY) == 0
        box.kill(config["primary"])
        sleep(0.15)
        assert first(box)["primary"] == config["secondaries"][1]
        assert table.get(b"user1", b"name") == b"5"
        assert box.executions(encode_key(b"user1", b"name")) == 2  # the incr and the get
    table.close()


def test_silent_primary_is_replaced_and_comes_back_as_secondary(box: Onebox, table: Routed) -> None:
    table.put(b"user1", b"name", b"1")
    silent = first(box)["primary"]
    with Raw(silent) as raw:
        box.pause(silent)
        raw.send(rpcs.GET, KEY, **ROUTE)
        with Raw(silent) as late:  # the kernel still accepts
            late.send(rpcs.GET, KEY, **ROUTE)
            sleep(0.15)
            assert first(box)["primary"] != silent
            assert table.put(b"user1", b"name", b"2") == "ERR_OK"
            box.resume(silent)
            # Requests of the meantime are answered late and never with old data.
            assert raw.reply()[0].error == late.reply()[0].error == "ERR_INVALID_STATE"
    sleep(0.1)
    assert silent in first(box)["secondaries"]
    assert all(len(part["secondaries"]) == 2 for part in box.partitions("temp"))


def test_a_server_that_accepts_nothing_times_out_and_resumes(box: Onebox) -> None:
    address = first(box)["primary"]
    host, _, port = address.rpartition(":")
    box.pause(address, accept=False)
    sock = socket.socket()
    sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        sock.connect((host, int(port)))
    sock.close()
    box.resume(address)
    with Raw(address) as raw:
        assert raw.call(rpcs.GET, KEY, **ROUTE)[0] in ("ERR_OK", "ERR_INVALID_STATE")


def test_writes_are_refused_with_too_few_members(make_box: Make) -> None:
    box = make_box(failover_delay=0.05)
    table = Routed(box)
    table.put(b"user1", b"name", b"v")
    for address in first(box)["secondaries"]:
        box.kill(address)
    sleep(0.1)
    assert first(box)["secondaries"] == []
    assert table.put(b"user1", b"name", b"w") == "ERR_NOT_ENOUGH_MEMBER"
    assert table.get(b"user1", b"name") == b"v"
    box.configure(min_replicas=1)
    assert table.put(b"user1", b"name", b"w") == "ERR_OK"
    table.close()


def test_acknowledged_writes_survive_the_death_of_all_servers(box: Onebox, table: Routed) -> None:
    """The disks hold the acknowledged writes; the last members of the partition lead."""
    for number in range(50):
        table.put(b"k%d" % number, b"s", b"old")
    box.kill(0)
    sleep(0.15)
    table.close()
    for number in range(50):
        table.put(b"k%d" % number, b"s", b"new")
    box.kill(1)
    box.kill(2)
    sleep(0.15)
    assert {part["primary"] for part in box.partitions("temp")} == {None}
    table.close()
    box.restart(0)  # has old data only, so it must not lead
    sleep(0.1)
    assert {part["primary"] for part in box.partitions("temp")} == {None}
    box.restart(2)
    sleep(0.2)
    assert {part["primary"] for part in box.partitions("temp")} == {box.replica_addresses[2]}
    assert {table.get(b"k%d" % number, b"s") for number in range(50)} == {b"new"}
    box.restart(1)
    sleep(0.1)
    assert all(len(part["secondaries"]) == 2 for part in box.partitions("temp"))


def test_clear_primary_serves_a_partition_whose_servers_all_died(box: Onebox, table: Routed) -> None:
    table.put(b"user1", b"name", b"v")
    table.close()
    for server in range(3):
        box.kill(server)
    sleep(0.15)
    box.clear_primary("temp", 0, 0.01)
    sleep(0.05)
    for server in range(3):
        box.restart(server)
    sleep(0.2)
    assert first(box)["primary"] is not None
    assert table.get(b"user1", b"name") == b"v"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not let a second socket hold a port")
def test_no_other_socket_gets_the_port_of_a_dead_server(make_box: Make) -> None:
    box = make_box()

    def bind(address: str) -> None:
        host, _, port = address.rpartition(":")
        with socket.socket() as sock:
            sock.bind((host, int(port)))

    addresses = [box.meta_addresses[0], box.servers[0].address]
    box.kill_meta(0)
    box.kill(0)
    for address in addresses:
        with pytest.raises(OSError, match="Address already in use"):
            bind(address)
        with pytest.raises(ConnectionRefusedError):
            Raw(address)
    box.restart_meta(0)
    box.restart(0)
    for address in addresses:
        with Raw(address):
            pass
    box.stop()
    assert not any(server._holder for server in (*box.metas, *box.servers))


def test_a_spare_server_takes_the_place_of_a_dead_one(make_box: Make) -> None:
    box = make_box(replicas=4, failover_delay=0.05, heal_delay=0.05)
    table = Routed(box)
    table.put(b"user1", b"name", b"v")
    box.kill(first(box)["primary"])
    sleep(0.2)
    assert all(len(part["secondaries"]) == 2 for part in box.partitions("temp"))
    assert table.get(b"user1", b"name") == b"v"
    table.close()


# ---------------------------------------------------------------------------------------------------------------- moves
def test_move_primary(box: Onebox, table: Routed) -> None:
    table.put(b"user1", b"name", b"v")
    old, new = first(box)["primary"], first(box)["secondaries"][1]
    ballot = first(box)["ballot"]
    box.move_primary("temp", 0, new)
    assert first(box)["primary"] == new
    assert old in first(box)["secondaries"]
    assert first(box)["ballot"] == ballot + 2
    assert table.raw(old).call(rpcs.GET, KEY, **ROUTE) == ("ERR_INVALID_STATE", None)
    assert table.get(b"user1", b"name") == b"v"
    assert table.put(b"user1", b"name", b"w") == "ERR_OK"
    assert backup_read(table) == b"v"


def test_move_to_a_server_without_a_copy(make_box: Make) -> None:
    box = make_box(replicas=5)
    table = Routed(box)
    table.put(b"user1", b"name", b"v")
    members = [first(box)["primary"], *first(box)["secondaries"]]
    other = next(address for address in box.replica_addresses if address not in members)
    box.move_primary("temp", 0, other)
    assert table.get(b"user1", b"name") == b"v"
    assert len(first(box)["secondaries"]) == 2
    box.kill(members[0])
    with pytest.raises(RuntimeError):
        box.move_primary("temp", 0, members[0])
    table.close()


def test_clear_primary(box: Onebox, table: Routed) -> None:
    table.put(b"user1", b"name", b"v")
    address = first(box)["primary"]
    box.clear_primary("temp", 0, 0.5)
    assert first(box)["primary"] is None
    assert table.raw(address).call(rpcs.GET, KEY, **ROUTE) == ("ERR_INVALID_STATE", None)
    sleep(0.25)
    assert table.get(b"user1", b"name") == b"v"


# ------------------------------------------------------------------------------------------------------- all at random
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_faults_lose_no_acknowledged_write(make_box: Make, seed: int) -> None:
    """A key never has less than its last acknowledged number, and a counter counts each execution once."""
    box = make_box(seed=seed, failover_delay=0.04, rejoin_delay=0.02, group_check_interval=0.05, replicas=4)
    random = Random(seed)
    acknowledged: dict[bytes, int] = {}
    counted: dict[bytes, int] = {}
    stop = False

    def write(name: int) -> None:
        table, number = Routed(box), 0
        while not stop:
            number += 1
            key = b"w%d-%d" % (name, number % 7)
            try:
                with gevent.Timeout(0.15, TimeoutError()):
                    if table.put(key, b"s", b"%d" % number, timeout_ms=100) == "ERR_OK":
                        acknowledged[key] = number
                    else:
                        gevent.sleep(0.002)
                    counter = b"c%d" % name
                    incr = rrdb.IncrRequest(encode_key(counter, b""), 1)
                    if table.call(rpcs.INCR, counter, incr)[0] == "ERR_OK":
                        counted[counter] = counted.get(counter, 0) + 1
            except (OSError, EOFError, AssertionError, AttributeError):  # lost, late, or without a primary
                table.close()
                gevent.sleep(0.002)
        table.close()

    writers = [gevent.spawn(write, name) for name in range(8)]
    for _ in range(18):
        which = random.randrange(4)
        action = random.choice(["kill", "pause", "move", "move"])
        if action == "move":
            config = random.choice(box.partitions("temp"))
            if config["primary"] and config["secondaries"]:
                to = random.choice(config["secondaries"])
                if box.replica_server(to).reachable and box.replica_server(config["primary"]).reachable:
                    box.move_primary("temp", config["index"], to)
        elif action == "kill":
            box.kill(which)
            box.later(random.uniform(0.0, 0.12), partial(box.restart, which))
        else:
            box.pause(which)
            box.later(random.uniform(0.0, 0.12), partial(box.resume, which))
        sleep(random.uniform(0.01, 0.06))
    stop = True
    gevent.joinall(writers, raise_error=True)
    for which in range(4):
        box.resume(which)
        if not box.replica_server(which).alive:
            box.restart(which)
    sleep(0.3)
    assert all(part["primary"] and len(part["secondaries"]) == 2 for part in box.partitions("temp"))
    assert len(acknowledged) > 8
    table = Routed(box)
    for key, number in acknowledged.items():
        assert int(table.get(key, b"s")) >= number
    executed = box.execution_counts(rb"(?s)RPC_RRDB_RRDB_INCR.+(c\d)")
    for counter, number in counted.items():
        assert int(table.get(counter, b"")) == executed[counter] >= number
    box.settle()
    copies = [[dict(row_items(replica)) for replica in replicas_of(box, index)] for index in range(8)]
    assert all(copy == group[0] for group in copies for copy in group)
    table.close()


def replicas_of(box: Onebox, index: int) -> list[Any]:
    partition = box.tables.get("temp").partitions[index]
    return [server.replicas[1, index] for server in partition.members]


def row_items(replica: Any) -> Any:
    return ((key, (value, expire)) for key, value, expire in replica.engine.records.forward(b"", None))
