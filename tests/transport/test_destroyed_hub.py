"""Test that a thread can destroy its hub in any state of the client, and goes on with the next hub."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import pytest

from pegasus_green import Client, PegasusError
from pegasus_green.errors import ConnectionLost
from pegasus_green.onebox import Onebox
from pegasus_green.transport.notices import Notices
from tests.leaks import descriptors
from tests.transport.fakes import Link, Stage
from tests.transport.scripts import run_script
from tests.transport.test_threads import in_native_thread
from tests.waiting import wait_until


def wait_for_others(_greenlet: Any) -> None:
    gevent.sleep(0)


def query_in_flight(table: Any, meta: Any) -> None:
    """Leave a query of the routes in flight."""
    meta.delay = 0.3
    with suppress(PegasusError):
        table.get("a", "b", timeout=0.1)


# What a thread does before it destroys its hub. The last argument is the meta server.
BEFORE: dict[str, Callable[[Any, Any], object]] = {
    "a call of the main greenlet": lambda table, _meta: table.get("a", "b"),
    "a call of another greenlet": lambda table, _meta: gevent.spawn(table.get, "a", "b").get(),
    "bulk calls": lambda table, _meta: table.get_many([("a", "b")] * 5),
    "a handle in flight": lambda table, _meta: table.get_async("a", "b"),
    "a call in flight": lambda table, _meta: wait_for_others(gevent.spawn(table.get, "a", "b")),
    "a query of the routes": query_in_flight,
}


# In a loop that is not destroyed, gevent leaves descriptors, and a greenlet that has not started fails when it ends.
@pytest.mark.leaks_ok
@pytest.mark.parametrize(
    ("before", "destroy_loop"),
    [*((before, True) for before in BEFORE), *((before, False) for before in BEFORE if "in flight" not in before)],
)
def test_calls_work_with_the_next_hub(stage: Stage, before: str, destroy_loop: bool) -> None:
    stage.server()
    client = stage.client(timeout=5.0)
    table = client.table("temp")

    def work() -> tuple[Any, ...]:
        BEFORE[before](table, stage.meta)
        for number in range(2):
            gevent.get_hub().destroy(destroy_loop=destroy_loop)
            table.set("x", "y", b"%d" % number)
            found = table.get("x", "y"), gevent.spawn(table.get, "x", "y").get()
            assert found == (b"%d" % number,) * 2, found
        return found

    assert in_native_thread(work) == (b"1", b"1")


@pytest.mark.parametrize("before", BEFORE)
def test_close_right_after_the_end_of_the_hub(stage: Stage, before: str) -> None:
    stage.server()
    opened = descriptors()

    def work() -> None:
        client = stage.client(timeout=5.0)
        BEFORE[before](client.table("temp"), stage.meta)
        gevent.get_hub().destroy(destroy_loop=True)
        client.close()
        assert client.closed
        assert client._cluster.pool.connections == []

    assert in_native_thread(work) is None
    # The servers close their ends, too.
    wait_until(lambda: descriptors().keys() <= opened.keys())


def change_nothing(_client: Client) -> None:
    return None


def close_before(client: Client) -> None:
    client.close()


def lose_before(client: Client) -> None:
    for connection in client._cluster.pool.connections:
        connection.close(ConnectionLost("a test has ended it"))


def park_before(client: Client) -> None:
    """Let the reply be here, and its caller be elsewhere."""
    for connection in client._cluster.pool.connections:
        for seqid in connection.pending:
            connection._park(seqid, b"a reply")


# What happens right before the hub is destroyed. The server replies right after it.
OUTCOMES: dict[str, Callable[[Client], None]] = {
    "a reply": change_nothing,
    "the end of the client": close_before,
    "the end of the connection": lose_before,
    "a parked reply": park_before,
}


@pytest.mark.leaks_ok  # gevent frees nothing of the greenlets that wait in a hub that was destroyed
@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("known_routes", [True, False])
def test_a_caller_of_the_ended_hub_never_continues_in_the_next_hub(
    stage: Stage, known_routes: bool, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next hub gets the loop, as the main thread's does. A caller that goes on there would end in other code."""
    waiting: list[Any] = []
    told: list[bool] = []
    replied: list[bool] = []

    def reply(link: Link, request: Any) -> None:
        wait_until(lambda: told)
        try:
            link.value(request, b"c")
        finally:
            replied.append(True)

    stage.server(lambda link, request: waiting.append(gevent.spawn(reply, link, request)))
    got: list[Any] = []

    def call(table: Any) -> None:
        try:
            got.append(table.get("a", "b"))
        except PegasusError as error:
            got.append(error)

    def work() -> list[Any]:
        client = stage.client(timeout=5.0)
        table = client.table("temp")
        if known_routes:
            # Then the connection switches into the greenlet itself, without a Waiter of gevent.
            table.warm_up()
        caller = gevent.spawn(call, table)
        wait_until(lambda: waiting)
        OUTCOMES[outcome](client)
        gevent.get_hub().destroy(destroy_loop=False)
        told.append(True)
        wait_until(lambda: replied)
        for _ in range(10):
            gevent.sleep(0.005)
        client.close()
        gevent.get_hub().destroy(destroy_loop=True)
        assert not caller.dead
        return got

    try:
        assert in_native_thread(work) == []
    finally:
        told.append(True)
    assert "handover" not in capsys.readouterr().err


@pytest.mark.leaks_ok  # the thread destroys its first hub, and nobody destroys the next one
def test_log_lines_are_written_after_the_end_of_a_hub(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pegasus_green")
    notices = Notices("test")

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    def work() -> list[str]:
        notices.info("kind", "the hub is destroyed before this line is written")
        gevent.get_hub().destroy(destroy_loop=True)
        notices.info("kind", "the next hub")
        wait_until(lambda: len(lines()) == 2, 5.0)
        notices.info("kind", "the thread ends before this line is written")
        return lines()

    first = in_native_thread(work)
    assert first == ["the hub is destroyed before this line is written", "the next hub"]
    # The client goes over to this thread.
    notices.info("kind", "the next thread")
    wait_until(lambda: len(lines()) == 4, 5.0)
    assert lines() == [*first, "the thread ends before this line is written", "the next thread"]


def test_lines_that_no_greenlet_can_write_any_more_are_written_at_the_end_of_the_process() -> None:
    """A child writes only its own lines."""
    script = """
        import logging, os, sys
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
        from pegasus_green.transport.notices import Notices
        notices = Notices("test")
        notices.warning("kind", "a line of the parent")
        if os.fork():
            os.wait()
        else:
            notices.warning("kind", "a line of the child")
    """
    assert sorted(run_script(script).splitlines()) == ["a line of the child", "a line of the parent"]


# The application destroyed the hub, so it also destroys the next one, at the end of the thread.
@pytest.mark.leaks_ok
@pytest.mark.parametrize("parallel", [1, 3])
def test_a_scan_goes_on_with_the_next_hub(parallel: int) -> None:
    box: Any = Onebox(tables={"temp": 4}, process=True).start()
    try:

        def work() -> int:
            with Client(box.meta_addresses) as client:
                table = client.table("temp")
                for number in range(60):
                    table.set(f"h{number}", "s", "v")
                rows = table.scan(batch_size=5, parallel=parallel)
                found = [next(rows).hash_key for _ in range(12)]
                gevent.get_hub().destroy(destroy_loop=True)
                found += [row.hash_key for row in rows]
            return len(found) if len(set(found)) == len(found) else -1

        assert in_native_thread(work) == 60
    finally:
        box.stop()
