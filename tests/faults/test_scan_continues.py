"""Test scans under single events: each stage of a split, lost contexts, moved and silent primaries, status 7."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import pytest

from pegasus_green import Client, InvalidArgument, Pegasus, PegasusError, RequestTimeout, ScanOptions, Table, TableError
from pegasus_green.onebox import Onebox
from pegasus_green.scanner import Scanner, batch
from tests.faults.interruptions import Interrupted
from tests.waiting import wait_until

pytestmark = pytest.mark.onebox_only

ROWS = [(b"%d" % (n % 150), b"s-%04d" % n, b"value-%d" % n) for n in range(1200)]


@pytest.fixture
def box() -> Iterator[Onebox]:
    with Onebox(replicas=3, tables={"temp": 4}, failover_delay=0.05) as box:
        yield box
        assert box.client_bugs == []
        assert box.errors == []


@pytest.fixture
def table(box: Onebox) -> Iterator[Table]:
    with Client(box.meta_addresses, refresh_interval=0.02, timeout=10.0) as client:
        table = client.table("temp")
        table.set_many(ROWS)
        yield table


def take(rows: Iterator[Any], count: int) -> list[Any]:
    return [next(rows) for _ in range(count)]


def check(found: list[Any], wanted: list[Any] = ROWS) -> None:
    lost, twice = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
    assert (lost.total(), twice.total()) == (0, 0)


def scan(table: Table, way: str, **options: Any) -> Scanner:
    return table.scan(batch_size=25, parallel=3 if way == "parallel" else 1, **options)


def go_on(rows: Scanner, table: Table, way: str) -> Scanner:
    """Return the scanner, or one that resumes from its token."""
    if way != "resumed":
        return rows
    rows.close()
    return table.scan(batch_size=25, resume=rows.token())


# --------------------------------------------------------------------------------------------------------------- splits
@pytest.mark.parametrize("way", ["plain", "parallel", "resumed"])
@pytest.mark.parametrize("taken", [0, 1, 130, 310, 700, 1190])
def test_a_scan_learns_of_a_split_from_the_refusal_of_the_parent(
    box: Onebox, table: Table, way: str, taken: int
) -> None:
    """There is no refresh and no broken connection, only the refusal of the parent."""
    rows = scan(table, way)
    found = take(rows, taken)
    box.split("temp", stepwise=True)
    box.finish_split("temp")
    check(found + list(go_on(rows, table, way)))


@pytest.mark.parametrize("way", ["plain", "parallel", "resumed"])
def test_a_scan_is_exact_at_every_step_of_a_split(box: Onebox, table: Table, way: str) -> None:
    """Routes are learned while children are not ready; each becomes ready before, while or after its parent is read."""
    rows = scan(table, way)
    found = take(rows, 30)
    box.split("temp", stepwise=True)
    table._dispatcher.routes.request()
    gevent.sleep(0.1)
    for parent in (2, 0, 3, 1):
        found += take(rows, 220)
        box.split_step("temp", parent)
        box.split_step("temp", parent)
        rows = go_on(rows, table, way)
    check(found + list(rows))


@pytest.mark.parametrize("way", ["plain", "parallel", "resumed"])
@pytest.mark.parametrize("ready", [0, 1, 3])
def test_a_scan_that_begins_during_a_split_is_exact(box: Onebox, table: Table, way: str, ready: int) -> None:
    box.split("temp", stepwise=True)
    for _ in range(2 * ready):
        box.split_step("temp")
    with Client(box.meta_addresses, timeout=10.0) as other:
        fresh = other.table("temp")
        assert fresh.count() == len(ROWS)
        rows = scan(fresh, way)
        found = take(rows, 200)
        box.finish_split("temp")
        check(found + list(go_on(rows, fresh, way)))


def test_a_scan_waits_while_a_parent_registers_its_child(box: Onebox, table: Table) -> None:
    rows = scan(table, "plain")
    found = take(rows, 40)
    box.split("temp", seconds=0.01, window=0.05)
    gevent.sleep(0.02)
    check(found + list(rows))


@pytest.mark.parametrize("way", ["plain", "parallel", "resumed"])
def test_a_scan_is_exact_when_the_split_is_cancelled(box: Onebox, table: Table, way: str) -> None:
    rows = scan(table, way)
    found = take(rows, 40)
    box.split("temp", stepwise=True)
    table._dispatcher.routes.request()
    gevent.sleep(0.1)
    found += take(rows, 300)
    rows = go_on(rows, table, way)
    box.configure(split_control_delay=0.01)
    box.control_split("temp", "cancel")
    gevent.sleep(0.1)
    table._dispatcher.routes.request()
    gevent.sleep(0.1)
    found += take(rows, 300)
    check(found + list(go_on(rows, table, way)))


@pytest.mark.parametrize("way", ["plain", "parallel", "resumed"])
def test_a_scan_is_exact_over_two_splits(box: Onebox, table: Table, way: str) -> None:
    rows = scan(table, way)
    found = take(rows, 110)
    for _ in range(2):
        box.split("temp", stepwise=True)
        box.finish_split("temp")
    found += take(rows, 500)
    check(found + list(go_on(rows, table, way)))


def test_scanners_and_counts_are_exact_over_a_split(box: Onebox, table: Table) -> None:
    shares = table.scanners(3, batch_size=20)
    found = [row for share in shares for row in take(share, 90)]
    tokens = [share.token() for share in shares]
    box.split("temp", stepwise=True)
    box.finish_split("temp")
    check(found + [row for share in shares for row in share])
    check(found + [row for token in tokens for row in table.scan(resume=token)])
    assert table.count() == len(ROWS)


def test_a_count_is_exact_when_the_table_splits_meanwhile(table: Table, box: Onebox) -> None:
    table.set_many([(b"%d" % (n % 700), b"x-%d" % n, b"") for n in range(12_000)])
    steps = 0
    rule = box.fault("delay", rpc="scan", seconds=0.02)

    def split() -> None:
        nonlocal steps
        gevent.sleep(0.03)
        box.split("temp", stepwise=True)
        while box.split_step("temp") != "done":
            steps += 1
            gevent.sleep(0.01)

    splitter = gevent.spawn(split)
    assert table.count() == 12_000 + len(ROWS)
    assert steps
    rule.remove()
    splitter.join()
    assert table.count(parallel=3) == 12_000 + len(ROWS)


def test_a_token_from_after_a_split_resumes_with_routes_from_before_it(box: Onebox, table: Table) -> None:
    table.get("0", "s-0000")
    box.split("temp", stepwise=True)
    box.finish_split("temp")
    with Client(box.meta_addresses) as other:
        rows = other.table("temp").scan(batch_size=20)
        found = take(rows, 500)
        token = rows.token()
        rows.close()
    assert table._dispatcher.routes.table.count == 4  # type: ignore[union-attr]
    check(found + list(table.scan(resume=token)))


READ_PARTITIONS: dict[str, Callable[[Table, int], int]] = {
    "scan": lambda table, index: len(list(table.scan(partitions=[index]))),
    "count": lambda table, index: table.count(partitions=[index]),
}


@pytest.mark.parametrize("way", READ_PARTITIONS)
@pytest.mark.parametrize("order", [1, -1])
def test_partitions_that_a_split_has_added_are_read(box: Onebox, table: Table, way: str, order: int) -> None:
    """The client still has the routes from before the split. It must not read the new partition with the old one."""
    table.get("0", "s-0000")
    box.split("temp", stepwise=True)
    box.finish_split("temp")
    read = READ_PARTITIONS[way]
    found = {index: read(table, index) for index in range(8)[::order]}
    with Client(box.meta_addresses) as other:
        assert found == {index: read(other.table("temp"), index) for index in range(8)}
    assert sum(found.values()) == len(ROWS)


@pytest.mark.parametrize("meta", ["answers", "fails"])
def test_partitions_that_do_not_exist_are_refused(box: Onebox, table: Table, meta: str) -> None:
    """The client asks the meta servers before, but needs no answer."""
    table.get("0", "s-0000")
    asked = box.fault("delay" if meta == "answers" else "error", rpc="query_cfg", error="ERR_BUSY")
    for read in READ_PARTITIONS.values():
        with pytest.raises(InvalidArgument, match="partition 4 of 4 does not exist"):
            read(table, 4)
    assert asked.hits >= 2


def test_a_hash_scan_is_exact_over_a_split(box: Onebox, table: Table) -> None:
    keys = [b"%d" % n for n in range(150)]
    scans = [table.hash_scan(key, batch_size=3) for key in keys]
    found = [(key, *row) for key, rows in zip(keys, scans) for row in take(rows, 4)]
    box.split("temp", stepwise=True)
    box.finish_split("temp")
    check(found + [(key, *row) for key, rows in zip(keys, scans) for row in rows])


# ----------------------------------------------------------------------------------------------- tables created again
NEW = [(b"new-%d" % n, b"s", b"v") for n in range(300)]


def create_again(box: Onebox, partitions: int = 4) -> None:
    """Drop the table and create it again, by another client, with other rows."""
    box.drop_table("temp")
    box.create_table("temp", partitions)
    with Client(box.meta_addresses) as other:
        other.table("temp").set_many(NEW)


@pytest.mark.parametrize("way", ["plain", "parallel", "scanners", "token"])
def test_a_scan_fails_at_once_when_its_table_is_dropped_and_created_again(box: Onebox, table: Table, way: str) -> None:
    if way == "scanners":
        # The last one has read nothing, but another one has.
        first, *_, rows = table.scanners(4, batch_size=20)
        take(first, 20)
    else:
        rows = scan(table, way)
        take(rows, 100)
    create_again(box)
    if way == "token":
        rows = table.scan(resume=rows.token())
    with pytest.raises(TableError, match="created again"):
        list(rows)
    with pytest.raises(TableError, match="created again"):
        list(rows)


def documented(meta_addresses: list[str], made_again: Callable[[], None]) -> int:
    pegasus = Pegasus(meta_addresses, "temp")
    pegasus.init()
    try:
        pegasus.get("0", "s-0000")
        made_again()
        found = 0
        for scanner in pegasus.get_unordered_scanners(3, ScanOptions()):
            while scanner.get_next() is not None:
                found += 1
        return found
    finally:
        pegasus.close()


BEGINNINGS: dict[str, Callable[[Table], int]] = {
    "scan": lambda table: len(list(table.scan())),
    "parallel scan": lambda table: len(list(table.scan(batch_size=7, parallel=4))),
    "scanners": lambda table: sum(len(list(rows)) for rows in table.scanners(3)),
    "count": lambda table: table.count(),
    "parallel count": lambda table: table.count(parallel=3),
    "handle": lambda table: table.count_async().get(),
}


@pytest.mark.parametrize("partitions", [2, 4, 8])
@pytest.mark.parametrize("way", [*BEGINNINGS, "documented"])
def test_a_scan_that_begins_with_the_routes_of_a_dropped_table_reads_the_new_one(
    box: Onebox, table: Table, way: str, partitions: int
) -> None:
    if way == "documented":
        assert documented(box.meta_addresses, lambda: create_again(box, partitions)) == len(NEW)
        return
    table.get("0", "s-0000")
    create_again(box, partitions)
    assert BEGINNINGS[way](table) == len(NEW)


@pytest.mark.parametrize("partitions", [2, 8])
def test_scanners_divide_the_new_table_if_none_has_read_anything(box: Onebox, table: Table, partitions: int) -> None:
    scanners = table.scanners(3, batch_size=20)
    create_again(box, partitions)
    # Read in turns, so that each of them plans again while the others read.
    found: list[Any] = []
    while scanners:
        for rows in scanners.copy():
            row = next(rows, None)
            found += [row] if row else []
            if row is None:
                scanners.remove(rows)
    check(found, NEW)


def test_a_token_of_a_scan_that_was_planned_again_continues_in_the_new_table(box: Onebox, table: Table) -> None:
    table.get("0", "s-0000")
    create_again(box, 2)
    for parallel in (1, 3):
        with table.scan(batch_size=20, parallel=parallel) as rows:
            found = take(rows, 31)
            token = rows.token()
        check(found + list(table.scan(resume=token)), NEW)
        table._dispatcher.routes.request()
        create_again(box, 8)


def test_late_batches_of_the_old_table_are_dropped(box: Onebox, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four parallel readers get a batch of the old table; before that, the fourth learns of the new table."""
    table.get("0", "s-0000")
    rows = table.scan(batch_size=20, parallel=4)
    plans: list[Any] = []
    late: list[int] = []
    made = gevent.event.Event()
    send, finish = batch.BatchCall.send, batch.BatchCall.finish

    def send_later(call: batch.BatchCall) -> Any:
        plans.append(call.work.planned)
        if call.part.index == 0:
            made.wait()
        return send(call)

    def finish_later(call: batch.BatchCall) -> Any:
        if call.work.planned is plans[0]:
            late.append(call.part.index)
            wait_until(lambda: call.work.planned is not plans[0])
        return finish(call)

    monkeypatch.setattr(batch.BatchCall, "send", send_later)
    monkeypatch.setattr(batch.BatchCall, "finish", finish_later)
    reader = gevent.spawn(list, rows)
    wait_until(lambda: len(late) == 3)
    create_again(box, 8)
    made.set()
    check(reader.get(), NEW)
    assert sorted(late) == [1, 2, 3]


# ------------------------------------------------------------------------------------------------- servers and contexts
@pytest.mark.parametrize("way", ["plain", "parallel"])
@pytest.mark.parametrize(
    "event",
    ["drop", "expire", "kill", "move", "restart", "cut", "cut after", "lost reply", "7", "7 empty", "busy", "late"],
)
def test_a_scan_is_exact_after_any_event_between_two_batches(box: Onebox, table: Table, way: str, event: str) -> None:
    rows = scan(table, way)
    found = take(rows, 60)
    for server in range(3):
        found += take(rows, 200)
        if event == "drop":
            box.drop_scan_contexts()
        elif event == "expire":
            box.advance(301)
        elif event == "kill" and server == 0:
            box.kill(server)
        elif event == "restart":
            box.restart(server)
        elif event == "move":
            for index in range(4):
                box.move_primary("temp", index, server)
        elif event == "cut":
            box.fault("cut", rpc=["scan", "get_scanner"], when="before", count=3)
        elif event == "cut after":
            box.fault("cut", rpc=["scan", "get_scanner"], when="after", count=3)
        elif event == "busy":
            box.fault("error", rpc="scan", error="ERR_BUSY", count=2)
        elif event == "late":
            box.fault("duplicate", rpc=["scan", "get_scanner"], count=5)
        elif event in ("7", "7 empty"):
            for replica in [r for server in box.servers for r in server.replicas.values()]:
                replica.engine.force_incomplete(*([7, 3] if event == "7" else [0, 0, 12, 0]))
    check(found + list(rows))


def test_a_scan_leaves_a_silent_primary_when_the_routes_name_another_one(box: Onebox, table: Table) -> None:
    """The waiting scan continues at the new primary long before its deadline."""
    rows = table.scan(batch_size=25, timeout=20.0)
    found = take(rows, 60)
    victim = next(p["primary"] for p in box.partitions("temp") if p["index"] == 0)
    box.pause(victim)
    with gevent.Timeout(5.0):
        found += list(rows)
    check(found)
    box.resume(victim)


def test_a_scan_fails_at_its_deadline_when_a_server_finds_no_row_in_time(box: Onebox, table: Table) -> None:
    rows = table.hash_scan("7", batch_size=2, timeout=0.5)
    found = take(rows, 2)
    for replica in [r for server in box.servers for r in server.replicas.values()]:
        replica.engine.force_incomplete(*[0] * 1000)
    with pytest.raises(RequestTimeout) as caught:
        next(rows)
    assert "status 7" in str(caught.value) or "no row" in str(caught.value)
    for replica in [r for server in box.servers for r in server.replicas.values()]:
        replica.engine._scan_time_limits.clear()
    check([(b"7", *row) for row in found + list(rows)], [row for row in ROWS if row[0] == b"7"])


def test_an_unreadable_batch_raises_and_does_not_end_the_scan(box: Onebox, table: Table) -> None:
    rows = table.scan(batch_size=25)
    found = take(rows, 25)
    box.fault("corrupt", rpc="scan", count=1)
    errors = 0
    while True:
        try:
            found += list(rows)
            break
        except PegasusError:
            errors += 1
    assert errors <= 1
    # A changed byte inside a value cannot be detected; missing or doubled rows can.
    assert Counter(row[:2] for row in found) == Counter(row[:2] for row in ROWS) or not errors


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_scan_resumes_after_a_timeout_at_any_point(table: Table, box: Onebox, parallel: int) -> None:
    """A gevent.Timeout is raised at random points; the next call continues after the last row."""
    box.fault("delay", rpc=["scan", "get_scanner"], seconds=0.004, probability=0.5)
    rows = table.scan(batch_size=10, parallel=parallel)
    found: list[Any] = []
    interrupted = 0
    while not rows.finished:
        try:
            # Every fifth time becomes longer. On a slow machine, perhaps no batch arrives within the first ones.
            with gevent.Timeout(0.003 if interrupted % 5 else 0.02 + 0.001 * interrupted):
                for row in rows:
                    found.append(row)  # noqa: PERF402 - what came before the interruption counts
        except gevent.Timeout:
            interrupted += 1
    check(found)
    assert interrupted > 3


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_batch_that_did_not_reach_its_caller_is_returned_again(table: Table, parallel: int) -> None:
    """An exception strikes between the arrival of a batch and its first row."""
    rows = table.scan(batch_size=10, parallel=parallel)
    found: list[Any] = take(rows, 15)

    def interrupt(*_args: Any) -> None:
        patches.undo()
        raise Interrupted

    def read() -> None:
        for row in rows:
            found.append(row)  # noqa: PERF402 - the rows before the exception count

    for _ in range(5):
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(Scanner, "_take", interrupt)
            with pytest.raises(Interrupted):
                read()
    check(found + list(rows))


def test_killed_workers_of_a_parallel_scan_lose_no_row(table: Table) -> None:
    rows = table.scan(batch_size=10, parallel=3)
    found: list[Any] = []
    for _ in range(20):
        found += take(rows, 40)
        gevent.killall(list(rows._work.workers), block=False)
    check(found + list(rows))


def test_a_killed_reader_of_a_shared_scanner_does_not_end_the_scan(table: Table) -> None:
    for parallel in (1, 3):
        rows = table.scan(batch_size=10, parallel=parallel)
        found: list[Any] = []

        def read(rows: Scanner = rows, found: list[Any] = found) -> None:
            for row in rows:
                found.append(row)
                gevent.sleep(0)

        readers = [gevent.spawn(read) for _ in range(4)]
        for victim in readers[:3]:
            gevent.sleep(0.01)
            victim.kill()
        readers[3].get()
        check(found)


def test_a_closed_client_ends_a_scan(box: Onebox) -> None:
    client = Client(box.meta_addresses)
    table = client.table("temp")
    table.set_many(ROWS)
    for parallel in (1, 3):
        rows = table.scan(batch_size=10, parallel=parallel)
        take(rows, 15)
        if parallel == 3:
            client.close()
            with pytest.raises(PegasusError, match="closed"):
                list(rows)
