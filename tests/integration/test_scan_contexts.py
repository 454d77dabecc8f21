"""Test that scans leave no context on the servers, however they end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import pytest

from pegasus_green import Client, PegasusError, RequestTimeout, Table
from pegasus_green.scanner import Scanner
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs
from tests.integration.scanning import Rows, contexts, fill, many, mine
from tests.waiting import wait_until

__all__ = ["many", "mine", "no_client_bugs"]


# ----------------------------------------------------------------------------------------- what is left on the servers
def no_contexts(cluster: Cluster, but: Sequence[int] = ()) -> bool:
    for _ in range(500):
        if set(contexts(cluster)) <= set(but):
            return True
        gevent.sleep(0.01)
    return False


def leave_by_break(rows: Scanner) -> None:
    for _ in rows:
        break


def leave_by_close(rows: Scanner) -> None:
    next(rows)
    rows.close()


def leave_by_error(rows: Scanner) -> None:
    try:
        with rows:
            next(rows)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def leave_by_kill(rows: Scanner) -> None:
    def read() -> None:
        for _ in rows:
            gevent.sleep(10)

    reader = gevent.spawn(read)
    gevent.sleep(0.02)
    reader.kill()


def leave_by_timeout(rows: Scanner) -> None:
    next(rows)
    with gevent.Timeout(0.001, False):  # type: ignore[arg-type]
        for _ in rows:
            gevent.sleep(0)


def leave_by_the_end(rows: Scanner) -> None:
    for _ in rows:
        pass


LEAVE = [leave_by_break, leave_by_close, leave_by_error, leave_by_kill, leave_by_timeout, leave_by_the_end]


@pytest.fixture(scope="module")
def scanned(cluster: Cluster) -> Rows:
    """Store rows in a table that no other test fills."""
    cluster.box.create_table("scanned", 8)
    found = [(b"%d" % (n % 40), b"sort-%03d" % n, b"value-%d" % n) for n in range(200)]
    with Client(cluster.metas) as client:
        client.table("scanned").set_many(found)
    # By chance all ids could have the same sign.
    for server in cluster.box.servers:
        for replica in server.replicas.values():
            replica.engine.contexts._next = (1 if replica.index % 2 else -1) << 40
    return found


@pytest.mark.onebox_only
@pytest.mark.parametrize("parallel", [0, 1, 4])
@pytest.mark.parametrize("leave", LEAVE, ids=lambda leave: leave.__name__)
def test_no_scan_context_is_left_on_the_servers(
    cluster: Cluster, client: Client, scanned: Rows, leave: Callable[[Scanner], None], parallel: int
) -> None:
    """About half of all context ids are negative; they are cleared, too."""
    table = client.table("scanned")
    signs = set()
    for row in scanned[:8]:
        rows = table.hash_scan(row[0], batch_size=2) if not parallel else table.scan(batch_size=2, parallel=parallel)
        next(rows)
        signs |= {context < 0 for context in contexts(cluster)}
        leave(rows)
        del rows
        gc.collect()
        assert no_contexts(cluster)
    assert parallel == 1 or signs == {True, False}, "partition 0 has ids of one sign"
    # A batch that was in flight at the end of the scan arrives later.
    wait_until(lambda: all(connection.in_flight == 0 for connection in client._cluster.pool.connections))


@pytest.mark.onebox_only
@pytest.mark.parametrize("parallel", [1, 3])
def test_a_reader_killed_while_it_waits_leaves_no_context(
    cluster: Cluster, mine: Callable[..., Scanner], parallel: int
) -> None:
    """The reply that no caller waits for contains a new context."""
    cluster.box.fault("delay", rpc=["scan", "get_scanner"], seconds=0.05)

    def read() -> None:
        for _ in mine(batch_size=2, parallel=parallel):
            pass

    for delay in (0.01, 0.07, 0.12):
        reader = gevent.spawn(read)
        gevent.sleep(delay)
        reader.kill()
        gevent.sleep(0.1)
        assert no_contexts(cluster)


@pytest.mark.onebox_only
def test_close_and_deletion_of_a_scanner_do_not_yield(cluster: Cluster, table: Table, many: Rows) -> None:
    for parallel in (1, 4):
        for drop in (False, True):
            rows = table.scan(batch_size=2, parallel=parallel)
            next(rows)
            other = gevent.spawn(lambda: None)
            if drop:
                del rows
                gc.collect()
            else:
                rows.close()
            assert not other.dead, "another greenlet has run"
            other.join()
            assert no_contexts(cluster)


@pytest.mark.onebox_only
def test_a_context_is_only_used_on_its_own_connection(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    found = fill(table, hash_key)
    rows = table.hash_scan(hash_key, batch_size=5)
    got = [next(rows) for _ in range(5)]
    before = {server.address: dict(server.requests) for server in cluster.box.servers}
    for connection in list(table.client._cluster.pool.connections):
        connection.close(PegasusError("cut by the test"))
    assert got + list(rows) == found
    scans = sum(
        server.requests.get("RPC_RRDB_RRDB_GET_SCANNER", 0) - before[server.address].get("RPC_RRDB_RRDB_GET_SCANNER", 0)
        for server in cluster.box.servers
    )
    assert scans == 1, "begun again on the new connection, not gone on with"


@pytest.mark.onebox_only
@pytest.mark.parametrize("leave", ["to the end", "close", "one hash key"])
def test_contexts_from_before_a_split_are_freed_after_it(cluster: Cluster, client: Client, leave: str) -> None:
    """A parent ignores requests with a hash of its child."""
    before = contexts(cluster)  # a test of cut connections left some
    name = f"split-{leave}"
    cluster.box.create_table(name, 4)
    table = client.table(name)
    found = [(b"h%d" % n, b"%03d" % n, b"") for n in range(200)]
    table.set_many(found)
    table.multi_set("one", dict.fromkeys(map(str, range(50)), "v"))
    scanners: list[Scanner[Any]] = [table.scan(batch_size=10, parallel=4)]
    if leave == "one hash key":
        # Some of four keys belong to a child.
        for n in range(4):
            table.multi_set(f"many-{n}", dict.fromkeys(map(str, range(50)), "v"))
        scanners = [table.hash_scan(f"many-{n}", batch_size=10) for n in range(4)]
    for rows in scanners:
        next(rows)
    assert len(contexts(cluster)) > len(before)
    cluster.box.split(name, stepwise=True)
    cluster.box.finish_split(name)
    for rows in scanners:
        if leave == "to the end":
            assert len([*rows]) == 249
        rows.close()
    assert no_contexts(cluster, before)


@pytest.mark.onebox_only
@pytest.mark.parametrize("rpc", ["get_scanner", "scan"])
def test_a_late_batch_leaves_no_context(cluster: Cluster, table: Table, hash_key: bytes, rpc: str) -> None:
    before = contexts(cluster)
    found = fill(table, hash_key)
    rows = table.hash_scan(hash_key, batch_size=5, timeout=0.7)
    got = [next(rows) for _ in range(5)] if rpc == "scan" else []
    # After the timeout, the client waits for a late reply for the same time again.
    fault = cluster.box.fault("delay", rpc=[rpc], seconds=1.05)
    tries = 1 if rpc == "scan" else 3  # after a scan that came too late the rows come by get_scanner
    for _ in range(tries):
        with pytest.raises(RequestTimeout):
            got.append(next(rows))
    cluster.box.clear_faults()
    assert fault.hits == tries
    # The replies that no caller waits for arrive, and the client frees their contexts.
    gevent.sleep(0.2)
    wait_until(lambda: contexts(cluster) == before)
    assert got + list(rows) == found
    rows.close()
    assert no_contexts(cluster, before)
