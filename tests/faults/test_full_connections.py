"""Test callers that wait for room on a full connection: failovers and deadlines hold for them, too."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.exceptions import InvalidSwitchError

from pegasus_green import Client, PegasusError, RequestTimeout, TableNotFound
from pegasus_green.onebox import Onebox
from pegasus_green.transport import pool
from tests.waiting import Stopwatch, wait_until

pytestmark = pytest.mark.onebox_only


def test_calls_that_wait_for_room_move_to_the_new_primary() -> None:
    with (
        Onebox(process=True, tables={"temp": 1}, failover_delay=0.3) as box,
        Client(box.meta_addresses, max_in_flight=5, silence=0.2) as client,
    ):
        table = client.table("temp")
        table.set("k", "s", "v")
        box.pause(box.partitions("temp")[0]["primary"])
        stuck = [gevent.spawn(table.incr, f"n{number}", "s", timeout=30, retry=None) for number in range(5)]
        gevent.sleep(0.05)
        watch = Stopwatch()
        assert table.get("k", "s", timeout=20) == b"v"
        assert watch.seconds < 8.0
        gevent.killall(stuck)


def test_an_abandoned_request_half_sent_does_not_delay_a_failover() -> None:
    with (
        Onebox(process=True, tables={"temp": 1}) as box,
        Client(box.meta_addresses, max_queued_bytes=256 * 1024, max_write_bytes=None, silence=0.2) as client,
    ):
        table = client.table("temp")
        table.set("k", "s", "v")
        partition = box.partitions("temp")[0]
        box.pause(partition["primary"])
        with pytest.raises(RequestTimeout):
            table.set("large", "s", bytes(20_000_000), timeout=0.3)
        box.move_primary("temp", 0, partition["secondaries"][0])
        assert table.get("k", "s", timeout=3) == b"v"


def test_waiting_calls_replace_a_connection_that_accepts_no_bytes() -> None:
    with (
        Onebox(process=True, tables={"temp": 1}, replicas=1) as box,
        Client(box.meta_addresses, max_queued_bytes=256 * 1024, max_write_bytes=None, silent_window=0.5) as client,
    ):
        table = client.table("temp")
        table.set("k", "s", "v")
        old = client._cluster.pool.connections[-1]
        address = old.peer.address
        assert address == box.partitions("temp")[0]["primary"]
        box.pause(address)
        with pytest.raises(RequestTimeout):
            table.set("large", "s", bytes(20_000_000), timeout=0.3)
        with pytest.raises(PegasusError):
            table.get("k", "s", timeout=0.6)
        assert old.lost is not None


def test_a_call_with_a_short_deadline_does_not_end_the_dial_of_other_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = pool.dial  # type: ignore[attr-defined]

    def slow(*where: Any) -> Any:
        gevent.sleep(0.05)
        return real(*where)

    with Onebox(tables={"temp": 1}, replicas=1) as box, Client(box.meta_addresses) as client:
        client.ping()
        monkeypatch.setattr(pool, "dial", slow)
        table = client.table("temp")
        hasty = [gevent.spawn(_fails, table, 0.02) for _ in range(30)]
        assert table.get("k", "s", timeout=2) is None
        gevent.joinall(hasty)
        assert client.stats()["servers"][box.partitions("temp")[0]["primary"]]["dials"] == 1


def _fails(table: Any, timeout: float) -> bool:
    try:
        table.get("k", "s", timeout=timeout)
    except PegasusError:
        return True
    return False


def test_bulk_calls_without_routes_end_at_their_deadline() -> None:
    with Client(["127.0.0.1:1"], timeout=0.5) as client:
        watch = Stopwatch()
        found = client.table("temp").get_many([(f"h{n}", "s") for n in range(1000)], return_errors=True)
        assert all(isinstance(error, PegasusError) for error in found)
        assert len({id(error) for error in found}) == 1000
        assert watch.seconds < 2.5
    with Onebox(tables={"temp": 1}) as box, Client(box.meta_addresses) as client:
        found = client.table("missing").get_many([(f"h{n}", "s") for n in range(500)], return_errors=True)
        assert {type(error) for error in found} == {TableNotFound}


def test_a_scan_killed_while_it_waits_for_room_frees_its_context() -> None:
    with (
        Onebox(tables={"temp": 1}, replicas=1) as box,
        Client(box.meta_addresses, max_in_flight=1, timeout=5) as client,
    ):
        table = client.table("temp")
        table.multi_set("m", {b"%03d" % number: b"v" for number in range(100)})
        rows = table.hash_scan("m", batch_size=10)
        for _ in range(10):
            next(rows)
        box.fault("delay", rpc="get", seconds=0.6)
        other = gevent.spawn(table.get, "m", "000")
        gevent.sleep(0.05)
        killed = gevent.spawn(next, rows)
        gevent.sleep(0.05)
        killed.kill()
        other.join()
        rows.close()
        replicas = [replica for server in box.servers for replica in server.replicas.values()]
        wait_until(lambda: not any(replica.engine.contexts._live for replica in replicas))


def test_a_caller_woken_by_foreign_code_gets_no_reply_of_another_call() -> None:
    with Onebox(tables={"temp": 1}, replicas=1) as box, Client(box.meta_addresses) as client:
        table = client.table("temp")
        for name in "abcd":
            table.set(name, "s", "value of " + name)
        box.fault("delay", rpc="get", seconds=0.4)
        ends: list[Any] = []

        def call() -> None:
            for name in "abcd":
                try:
                    ends.append(table.get(name, "s"))
                except InvalidSwitchError as error:
                    ends.append(type(error))

        caller = gevent.spawn(call)
        gevent.sleep(0.05)
        gevent.get_hub().loop.run_callback(caller.switch)
        caller.join()
        assert ends == [InvalidSwitchError, b"value of b", b"value of c", b"value of d"]
