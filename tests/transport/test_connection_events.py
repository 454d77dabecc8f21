"""Test that listeners hear of one end of each connection they have heard of, however it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from pegasus_green import Client, Listener, PegasusError
from pegasus_green.errors import ConnectionLost
from pegasus_green.events import Lifetime, Listeners
from tests.fork.forking import WAYS
from tests.transport.fakes import Stage
from tests.transport.scripts import run_script
from tests.transport.test_threads import in_native_thread
from tests.waiting import wait_until

_ident: Callable[[], int] = get_original("_thread", "get_ident")


class Ends(Listener):
    """Counts open connections by server. Remembers how they ended, and in which threads it was called."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        self.opened = 0
        self.reasons: list[str] = []
        self.threads: set[int] = set()

    def connection_opened(self, address: str) -> None:
        self.threads.add(_ident())
        self.open[address] += 1
        self.opened += 1

    def connection_lost(self, address: str, reason: str) -> None:
        self.threads.add(_ident())
        self.reasons.append(reason)
        if not reason.startswith("cannot connect: "):
            self.open[address] -= 1


def really_open(client: Client) -> Counter[str]:
    pools = [cluster.pool for cluster in client._threads.all]
    return Counter(connection.peer.address for pool in pools for connection in pool.connections)


# Each of these functions ends connections. It gets the stage, a client with open connections, and its table.
def lose(stage: Stage, _client: Client, table: Any) -> None:
    for link in stage.servers[0].links:
        link.close()
    table.get("a", "b")


def close(_stage: Stage, client: Client, _table: Any) -> None:
    client.close()


def drain(_stage: Stage, client: Client, _table: Any) -> None:
    client.close(drain=1.0)


def close_in_another_thread(_stage: Stage, client: Client, _table: Any) -> None:
    in_native_thread(client.close)


def end_thread(_stage: Stage, _client: Client, table: Any) -> None:
    assert in_native_thread(lambda: table.get("a", "b")) == b"c"


def end_thread_with_its_own_hub(_stage: Stage, _client: Client, table: Any) -> None:
    def work() -> Any:
        gevent.get_hub()
        try:
            return table.get("a", "b")
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    assert in_native_thread(work) == b"c"


def destroy_hub(_stage: Stage, _client: Client, table: Any) -> None:
    def work() -> Any:
        table.get("a", "b")
        gevent.get_hub().destroy(destroy_loop=True)
        return table.get("a", "b")

    assert in_native_thread(work) == b"c"


def forget_server(_stage: Stage, client: Client, _table: Any) -> None:
    for _ in range(2):
        client._cluster.pool.forget_peers(set(), 0.0)


def fail_to_dial(stage: Stage, _client: Client, table: Any) -> None:
    stage.servers[0].stop()
    with suppress(PegasusError):
        table.get("a", "b", timeout=0.3)


def change_leader(stage: Stage, client: Client, _table: Any) -> None:
    connection = client._cluster.pool.peer(stage.meta.address).connection
    assert connection is not None
    connection.close(ConnectionLost("no longer the leader"))


WAYS_TO_END = {
    way.__name__: way
    for way in (
        *(lose, close, drain, close_in_another_thread, end_thread, end_thread_with_its_own_hub, destroy_hub),
        *(forget_server, fail_to_dial, change_leader),
    )
}


@pytest.mark.leaks_ok  # a hub that the application destroys while connections are open
@pytest.mark.parametrize("way", WAYS_TO_END)
def test_each_connection_has_one_beginning_and_one_end(stage: Stage, way: str) -> None:
    stage.server()
    client = stage.client(timeout=5.0)
    ends = Ends()
    client.add_listener(ends)
    table = client.table("temp")
    table.set("a", "b", "c")
    assert ends.open == really_open(client)
    WAYS_TO_END[way](stage, client, table)
    # The end of a thread is reported by the event loop of this one.
    wait_until(lambda: ends.reasons and +ends.open == really_open(client), 20.0)
    client.close()
    wait_until(lambda: not +ends.open, 20.0)
    lost = [reason for reason in ends.reasons if not reason.startswith("cannot connect: ")]
    assert ends.opened == len(lost)
    assert min(ends.open.values()) >= 0
    assert (len(lost) < len(ends.reasons)) == (way == "fail_to_dial")


def test_a_thread_that_ends_runs_no_listener(stage: Stage) -> None:
    """Python is clearing the variables of the thread. The event loop of another thread runs the listener."""
    stage.server()
    client = stage.client(timeout=5.0)
    table = client.table("temp")
    table.get("a", "b")
    ends = Ends()

    def work() -> None:
        table.get("a", "b")
        # Only the end of the thread is observed.
        client.add_listener(ends)

    in_native_thread(work)
    wait_until(lambda: ends.reasons, 20.0)
    assert set(ends.reasons) == {"the hub or its thread has ended"}
    assert ends.threads == {_ident()}


@pytest.mark.parametrize("after", ["a new thread", "close"])
def test_the_end_of_the_only_thread_is_reported_later(stage: Stage, after: str) -> None:
    stage.server()
    client = stage.client(timeout=5.0)
    table = client.table("temp")
    ends = Ends()
    client.add_listener(ends)
    in_native_thread(lambda: table.get("a", "b"))
    wait_until(lambda: not really_open(client))
    assert not ends.reasons
    if after == "close":
        client.close()
    else:
        table.get("a", "b")
    assert "the hub or its thread has ended" in ends.reasons
    assert +ends.open == really_open(client)


def test_a_dropped_client_reports_its_connections(stage: Stage) -> None:
    stage.server()
    clients = [Client([stage.meta.address], refresh_period=0.0)]
    ends = Ends()
    clients[0].add_listener(ends)
    clients[0].table("temp").get("a", "b")
    assert ends.opened == 2
    with pytest.warns(ResourceWarning):
        clients.clear()
    wait_until(lambda: not +ends.open, 20.0)
    assert len(ends.reasons) == 2


@pytest.mark.parametrize("step", ["debug", "setdefault"])
def test_a_connection_that_ends_while_it_is_opened(stage: Stage, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A signal handler closes the client, or an exception strikes, before the listeners hear of the connection."""
    stage.server()
    client = stage.client(timeout=1.0)
    ends = Ends()
    client.add_listener(ends)
    pool = client._cluster.pool
    if step == "debug":
        monkeypatch.setattr(pool.notices, "debug", lambda *_: client.close())
    else:

        def interrupted(*_: Any) -> None:
            raise OSError("interrupted")

        monkeypatch.setattr(pool, "_by_sockaddr", type("", (dict,), {"setdefault": interrupted})())
    with pytest.raises(PegasusError):
        client.table("temp").get("a", "b")
    assert not +ends.open
    assert ends.opened == 0
    client.close()
    assert not any("closed" in reason for reason in ends.reasons)


@pytest.mark.parametrize(
    ("notes", "heard"),
    [
        (("opened", "lost"), ["opened", "lost"]),
        # The close was interrupted, and was done again.
        (("opened", "lost", "lost"), ["opened", "lost"]),
        # Another thread or a signal handler came in between.
        (("lost", "opened"), []),
        (("lost", "opened", "lost"), []),
    ],
)
def test_notes_in_every_order(notes: tuple[str, ...], heard: list[str]) -> None:
    listeners, told = Listeners(lambda: None), []

    class Told(Listener):
        def connection_opened(self, address: str) -> None:
            told.append("opened")

        def connection_lost(self, address: str, reason: str) -> None:
            told.append("lost")

    listeners.add(Told())
    connection = Lifetime("127.0.0.1:1")
    for note in notes:
        if note == "opened":
            listeners.note_opened(connection)
        else:
            listeners.note_lost(connection, "reason")
    assert listeners.behind
    listeners.tell_noted()
    assert told == heard
    assert not listeners.behind


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_the_end_follows_the_beginning_if_it_comes_while_the_beginning_is_told(error: BaseException | None) -> None:
    listeners, told = Listeners(lambda: None), []
    connection = Lifetime("127.0.0.1:1")

    class Told(Listener):
        def connection_opened(self, address: str) -> None:
            # As another thread or a signal handler can do.
            listeners.note_lost(connection, "reason")
            listeners.tell_noted()
            told.append("opened")
            if error is not None:
                raise error

        def connection_lost(self, address: str, reason: str) -> None:
            told.append(reason)

    listeners.add(Told())
    listeners.note_opened(connection)
    with suppress(KeyboardInterrupt):
        listeners.tell_noted()
    listeners.tell_noted()
    assert told == ["opened", "reason"]


def test_notes_of_the_parent_process_are_dropped() -> None:
    listeners, ends = Listeners(lambda: None), Ends()
    listeners.add(ends)
    connection = Lifetime("127.0.0.1:1")
    listeners.note_opened(connection)
    connection.pid -= 1
    listeners.note_lost(connection, "reason")
    listeners.tell_noted()
    assert (ends.opened, ends.reasons, connection.opened) == (0, [], False)


@pytest.mark.parametrize("way", WAYS)
def test_a_forked_child_hears_only_of_its_own_connections(stage: Stage, way: str) -> None:
    stage.server()
    out = run_script(
        """
import os, sys
import gevent
from pegasus_green import Client, Listener
from tests.fork.forking import fork

class Ends(Listener):
    def connection_opened(self, address):
        heard.append("opened")
    def connection_lost(self, address, reason):
        heard.append(reason)

heard = []
client = Client([sys.argv[1]], timeout=8.0, refresh_period=0.0)
client.add_listener(Ends())
table = client.table("temp")
table.get("a", "b")
assert heard == ["opened"] * 2, heard
heard.clear()

def child():
    gevent.sleep(0.05)
    assert heard == [], heard
    table.get("a", "b")
    assert heard == ["opened"], heard
    client.close()
    assert heard == ["opened", "the client was closed"], heard

print(fork(sys.argv[2], child)(), heard)
client.close()
print(heard)
        """,
        stage.meta.address,
        way,
        warn="ignore",
    )
    assert out == "0 []\n['the client was closed', 'the client was closed']\n"


class Broken(Listener):
    """A listener with a bug."""

    def call_started(self, table: str, operation: str) -> None:
        raise RuntimeError("a bug")


def test_each_failing_listener_is_logged(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Also if a removed one had the same id. Nothing is kept of removed ones."""
    stage.server()
    client = stage.client()
    for number in range(20):
        listener = Broken()
        client.add_listener(listener)
        for _ in range(2):
            client.table("temp").get("h", "s")
        client.remove_listener(listener)
        del listener
        records = [record for record in caplog.records if record.name == "pegasus_green.events"]
        assert len(records) == number + 1
        assert not client._cluster.listeners._complained
