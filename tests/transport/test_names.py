"""Test servers with several names, names with several servers, and when they are forgotten."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from pegasus_green import HedgePolicy, errors
from pegasus_green.cli import http
from pegasus_green.cluster import meta as meta_module
from pegasus_green.cluster.dispatcher import MAX_VARIANTS
from pegasus_green.cluster.limiter import MAX_KEPT
from pegasus_green.cluster.metas import MAX_LEARNT
from pegasus_green.cluster.tables import MAX_UNKNOWN
from pegasus_green.protocol.meta import ListNodesResponse, NodeInfo, make_address
from pegasus_green.transport import reach
from tests.transport.fakes import (
    BlackHole,
    FakeMeta,
    FakeServer,
    Stage,
    connection_of,
    dead_address,
    silent,
)
from tests.waiting import Stopwatch, wait_until


def ends(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error


class Names:
    """A name server for the hosts that end in .example."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        # One result for each look-up.
        self.changing: dict[str, Iterator[list[str]]] = {}
        self.slow: dict[str, float] = {}
        self.asked: list[str] = []

    def __call__(self, real: Callable[..., Any], host: str, port: int, *rest: Any) -> Any:
        if not host.endswith(".example"):
            return real(host, port, *rest)
        self.asked.append(host)
        if host in self.slow:
            gevent.sleep(self.slow[host])
        if host in self.changing:
            self.known[host] = next(self.changing[host])
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        pairs = [address.rpartition(":") for address in self.known[host]]
        return [found for to, _, at in pairs for found in real(to, int(at), *rest)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names, real = Names(), socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: names(real, *args))
    return names


# ---------------------------------------------------------------------------------------- two names of one server
NAME = "replica-1.example:34801"


@pytest.fixture
def hole() -> Iterator[BlackHole]:
    hole = BlackHole()
    yield hole
    hole.stop()


@pytest.mark.parametrize("name", ["unknown", "refuses", "swallows", "never resolved"])
def test_the_address_is_tried_when_the_name_is_unreachable(
    stage: Stage, names: Names, hole: BlackHole, name: str
) -> None:
    server = stage.server()
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: server.address}
    if name != "unknown":
        names.known["replica-1.example"] = [hole.address if name == "swallows" else dead_address()]
    if name == "never resolved":
        names.slow["replica-1.example"] = 60.0
    table = stage.table()
    watch = Stopwatch()
    assert table.get("h", "s") is None
    # The next name begins after 0.25 s at the latest; a dial may take 1 s.
    assert watch.seconds < 0.9
    server.links[0].close()
    wait_until(lambda: connection_of(table.client, NAME) is None)
    before = len(names.asked)
    assert table.get("h", "s") is None
    # The way that worked is tried first the next time.
    assert len(names.asked) == before
    assert list(table.client.stats()["servers"]) == [stage.meta.address, NAME]


@pytest.mark.parametrize("address", ["refuses", "swallows"])
def test_the_name_is_tried_when_the_address_is_unreachable(
    stage: Stage, names: Names, hole: BlackHole, address: str
) -> None:
    server = stage.server()
    dead = hole.address if address == "swallows" else dead_address()
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: server.address}
    table = stage.table(refresh_interval=0.01)
    # The address is no longer valid.
    assert table.get("h", "s") is None
    names.known["replica-1.example"] = [server.address]
    stage.meta.digits = {NAME: dead}
    table._dispatcher.routes.request()
    wait_until(lambda: table.client._cluster.pool.peer(NAME).other == dead)
    server.links[0].close()
    wait_until(lambda: connection_of(table.client, NAME) is None)
    assert table.get("h", "s") is None


def test_the_name_is_tried_before_the_address(stage: Stage, names: Names) -> None:
    server, other = stage.server(), stage.extra(FakeServer())
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: other.address}
    names.known["replica-1.example"] = [server.address]
    assert stage.table().get("h", "s") is None
    assert (len(server.links), len(other.links)) == (1, 0)


def test_each_dial_resolves_the_name_again(stage: Stage, names: Names) -> None:
    old, new = stage.server(), stage.extra(FakeServer())
    stage.meta.primaries = [NAME]
    names.known["replica-1.example"] = [old.address]
    table = stage.table()
    assert table.get("h", "s") is None
    old.stop()
    names.known["replica-1.example"] = [new.address]
    assert table.get("h", "s") is None
    assert len(new.links) == 1


def test_an_error_names_every_address_that_was_tried(stage: Stage, names: Names) -> None:
    dead = dead_address()
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: dead}
    error = ends(stage.table().get, "h", "s", retry=None)
    assert isinstance(error, errors.ConnectFailed)
    assert f"{NAME}: [Errno -2] Name or service not known; {dead}: " in str(error)
    assert "refused" in str(error)


def test_a_secondary_is_reached_by_its_address(stage: Stage, names: Names) -> None:
    backup = stage.extra(FakeServer(lambda link, request: link.value(request, b"backup")))
    primary = stage.server(silent)
    stage.meta.primaries = [primary.address]
    stage.meta.secondaries, stage.meta.digits = [NAME], {NAME: backup.address}
    table = stage.table(hedge=HedgePolicy(delay=0.02, max_ratio=1.0), timeout=1.0)
    ends(table.get, "h", "s")
    wait_until(lambda: connection_of(table.client, NAME) is not None)
    assert table.get("h", "s") == b"backup"


def test_close_during_two_dials_leaves_no_socket(stage: Stage, names: Names, hole: BlackHole) -> None:
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: hole.address}
    names.slow["replica-1.example"] = 60.0
    client = stage.client()
    caller = gevent.spawn(ends, client.table("temp").get, "h", "s", timeout=5.0)
    wait_until(lambda: len(names.asked) == 1)
    gevent.sleep(0.3)
    client.close()
    assert isinstance(caller.get(), errors.ClientClosed)
    wait_until(lambda: not client._cluster.pool._greenlets)


def test_the_slower_of_two_connections_is_closed(stage: Stage, names: Names) -> None:
    """The name and the address lead to the same server; the slower connection closes its socket."""
    server = stage.server()
    stage.meta.primaries, stage.meta.digits = [NAME], {NAME: server.address}
    names.known["replica-1.example"] = [server.address]
    names.slow["replica-1.example"] = 0.8
    table = stage.table()
    assert table.get("h", "s") is None
    gevent.sleep(0.8)
    gc.collect()
    assert table.get("h", "s") is None
    assert len(server.links) == 1


class Pages:
    """A server of pages whose name swallows packets. The meta servers name its address in their list of nodes only."""

    def __init__(self, stage: Stage, names: Names, hole: BlackHole, page: Callable[[Any], object]) -> None:
        def serve(sock: Any, _peer: Any) -> None:
            with suppress(OSError):
                page(sock)

        server = stage.extra(StreamServer(("127.0.0.1", 0), serve))
        server.start()
        node = NodeInfo(status=1, node=make_address("127.0.0.1", server.server_port), hp_node=NAME)
        stage.meta.handler = lambda link, request: link.reply(request, ListNodesResponse(err="ERR_OK", infos=[node]))
        names.known["replica-1.example"] = [hole.address]
        self.client = stage.client()
        self.client._cluster.meta.leader = stage.meta.address

    def get(self, timeout: float) -> Any:
        with gevent.Timeout(20.0):
            return http.get(self.client, NAME, "/metrics", {}, timeout)


def trickle(sock: Any) -> None:
    while True:
        sock.sendall(b"H")
        gevent.sleep(0.05)


def say_nothing(sock: Any) -> None:
    while sock.recv(1000):
        pass


@pytest.mark.parametrize("page", [trickle, say_nothing])
def test_a_page_that_does_not_end_fails_at_the_time_limit(
    stage: Stage, names: Names, hole: BlackHole, page: Callable[[Any], object]
) -> None:
    pages = Pages(stage, names, hole, page)
    with pytest.raises(TimeoutError, match=r"^no answer within 0\.8 s$"):
        pages.get(0.8)


def test_a_page_is_read_within_its_time_limit_although_the_name_swallows_packets(
    stage: Stage, names: Names, hole: BlackHole
) -> None:
    pages = Pages(stage, names, hole, lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    assert pages.get(1.6) == "ok"


def test_the_time_limit_of_a_caller_is_not_that_of_the_page(stage: Stage, names: Names, hole: BlackHole) -> None:
    pages = Pages(stage, names, hole, trickle)
    limit = gevent.Timeout(0.3)
    with pytest.raises(gevent.Timeout) as caught, limit:
        http.get(pages.client, NAME, "/metrics", {}, 10.0)
    assert caught.value is limit


# ------------------------------------------------------------------------------------- one name of several servers
METAS = "metas.example:34601"


class Metas:
    """Meta servers behind one name; the table's primary is one replica server."""

    def __init__(self, stage: Stage, names: Names, count: int) -> None:
        self.server = stage.server()
        self.stage = stage
        self.all: list[FakeMeta] = [self.another() for _ in range(count)]
        names.known["metas.example"] = [meta.address for meta in self.all]

    def another(self) -> FakeMeta:
        meta = self.stage.extra(FakeMeta([self.server.address]))
        assert isinstance(meta, FakeMeta)
        return meta

    def follow(self, leader: FakeMeta | None, known: bool = True) -> None:
        for meta in self.all:
            meta.error = "ERR_OK" if meta is leader else "ERR_FORWARD_TO_OTHERS"
            meta.forward = leader.address if leader is not None and known else ""


@pytest.mark.parametrize("leader", [0, 1, 2])
@pytest.mark.parametrize("others", ["silent", "dead", "do not know the leader", "know the leader"])
def test_every_address_of_a_name_is_used_as_a_meta_server(stage: Stage, names: Names, leader: int, others: str) -> None:
    metas = Metas(stage, names, 3)
    metas.follow(metas.all[leader], others == "know the leader")
    for index, meta in enumerate(metas.all):
        if index != leader and others == "silent":
            meta.handler = silent
        elif index != leader and others == "dead":
            meta.stop()
    watch = Stopwatch()
    assert stage.client([METAS]).table("temp").get("h", "s") is None
    assert watch.seconds < 0.9
    assert names.asked == ["metas.example"]


def test_a_name_is_resolved_again_when_all_meta_servers_have_failed(stage: Stage, names: Names) -> None:
    metas = Metas(stage, names, 2)
    client = stage.client([METAS], refresh_interval=0.01)
    table = client.table("temp")
    assert table.get("h", "s") is None
    for meta in metas.all:
        meta.stop()
    new = [metas.another(), metas.another()]
    new[0].handler = silent
    names.known["metas.example"] = [meta.address for meta in new]
    assert client.ping(10.0) < 4.0
    assert new[1].requests
    assert set(client._cluster.meta.metas.all()) == {meta.address for meta in new}
    assert client._cluster.meta.addresses == [METAS]


def test_a_name_with_one_address_leaves_a_silent_server_for_its_new_address(stage: Stage, names: Names) -> None:
    metas = Metas(stage, names, 1)
    client = stage.client([METAS])
    assert client.table("temp").get("h", "s") is None
    # The connection to the old server stays open.
    metas.all[0].handler = silent
    names.known["metas.example"] = [metas.another().address]
    assert client.ping(10.0) < 4.0
    assert client._cluster.meta.addresses == [METAS]


def test_an_address_is_used_that_the_name_server_returns_after_the_connect_timeout(stage: Stage, names: Names) -> None:
    Metas(stage, names, 1)
    names.slow["metas.example"] = 1.0
    client = stage.client([METAS], connect_timeout=0.4)
    assert client.table("temp").get("h", "s", timeout=5.0) is None
    assert names.asked == ["metas.example"]


@pytest.mark.parametrize("addresses", ["one", "two", "changing", "none"])
@pytest.mark.parametrize("servers", ["silent", "dead"])
def test_a_name_is_looked_up_once_per_pause(stage: Stage, names: Names, servers: str, addresses: str) -> None:
    metas = Metas(stage, names, 1 if addresses == "one" else 3)
    for meta in metas.all:
        meta.handler = silent
        if servers == "dead":
            meta.stop()
    first, *others = (meta.address for meta in metas.all)
    if addresses == "changing":
        names.changing["metas.example"] = itertools.cycle([[first, other] for other in others])
    elif addresses == "none":
        del names.known["metas.example"]
    client = stage.client([METAS], meta_stagger=0.01)
    assert isinstance(ends(client.ping, 1.0), errors.MetaUnreachable)
    # The pauses are 0.05, 0.1, 0.2, 0.4 and 0.5 s. Each dial of a name without an address is a look-up, too.
    assert 2 <= len(names.asked) <= 20


@pytest.mark.parametrize("new", [False, True])
def test_only_new_addresses_end_the_pause(
    stage: Stage, names: Names, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    monkeypatch.setattr(meta_module, "PAUSE_BASE", 60.0)
    metas = Metas(stage, names, 2)
    old = [dead_address(), dead_address()]
    found = [meta.address for meta in metas.all] if new else old[::-1]
    names.changing["metas.example"] = itertools.chain([old], itertools.repeat(found))
    asked: list[str] = []
    ask = meta_module.MetaClient._outcome

    def record(self: meta_module.MetaClient, address: str, *args: Any) -> Any:
        asked.append(address)
        return ask(self, address, *args)

    monkeypatch.setattr(meta_module.MetaClient, "_outcome", record)
    client = stage.client([METAS])
    caller = gevent.spawn(ends, client.ping, 30.0)
    wait_until(lambda: len(names.asked) == 2 and not client._cluster.meta._resolving)
    if new:
        assert isinstance(caller.get(), float)
    else:
        gevent.sleep(0.1)
    assert asked[:2] == old
    assert len(asked) == (3 if new else 2)
    assert len(names.asked) == 2


def test_an_unresolvable_name_does_not_delay_the_other_names(stage: Stage, names: Names) -> None:
    names.slow["metas.example"] = 60.0
    stage.server()
    client = stage.client([METAS, stage.meta.address])
    watch = Stopwatch()
    assert client.table("temp").get("h", "s") is None
    assert watch.seconds < 1.7


def test_addresses_from_before_are_used_when_the_name_server_is_silent(stage: Stage, names: Names) -> None:
    metas = Metas(stage, names, 2)
    client = stage.client([METAS])
    assert client.table("temp").get("h", "s") is None
    names.slow["metas.example"] = 60.0
    metas.follow(None)
    gevent.spawn_later(0.3, metas.follow, metas.all[1])
    assert client.ping(20.0) < 10.0


def test_the_error_says_that_the_name_is_not_resolved(stage: Stage, names: Names) -> None:
    names.slow["metas.example"] = 60.0
    error = ends(stage.client([METAS], timeout=0.2).table("temp").get, "h", "s")
    assert isinstance(error, errors.MetaUnreachable)
    assert METAS in str(error)
    error = ends(stage.client([METAS]).ping, 0.2)
    assert "the name server has not answered for metas.example:34601" in str(error)
    names.slow.clear()
    error = ends(stage.client([METAS]).ping, 1.0)
    assert "Name or service not known" in str(error)


def test_a_leader_with_an_unresolvable_name_is_reached_by_its_address(stage: Stage, names: Names) -> None:
    leader = stage.extra(FakeMeta([stage.server().address]))
    stage.meta.error, stage.meta.forward = "ERR_FORWARD_TO_OTHERS", "meta-2.example:34601"
    stage.meta.digits = {"meta-2.example:34601": leader.address}
    assert stage.client().table("temp").get("h", "s") is None


# --------------------------------------------------------------------------------------------- what is forgotten again
def assert_queries_end(stage: Stage) -> None:
    """Check that no route is queried any more; a last query may be on its way."""
    for _ in range(4):
        before = len(stage.meta.queries)
        gevent.sleep(0.2)
        if len(stage.meta.queries) == before:
            return
    raise AssertionError(f"{before} queries, and they go on")


@pytest.mark.parametrize("alive", [False, True])
def test_learned_meta_servers_are_forgotten(stage: Stage, names: Names, alive: bool) -> None:
    """The leader moves twenty times to a server that is not configured."""
    server = stage.server()
    client = stage.client(refresh_period=0.02, refresh_interval=0.01)
    client.table("temp").get("h", "s")
    metas = [stage.meta]
    for _ in range(20):
        leader = stage.extra(FakeMeta([server.address]))
        for meta in metas:
            meta.error, meta.forward = "ERR_FORWARD_TO_OTHERS", leader.address
        metas.append(leader)
        wait_until(lambda at=leader.address: client._cluster.meta.leader == at)  # type: ignore[misc]
        if not alive:
            leader.stop()
    stage.meta.error = "ERR_OK"
    for meta in metas[1:]:
        meta.error, meta.forward = "ERR_FORWARD_TO_OTHERS", stage.meta.address
    wait_until(lambda: client._cluster.meta.leader == stage.meta.address)
    assert len(client._cluster.meta.addresses) <= 1 + MAX_LEARNT
    wait_until(lambda: len(client.stats()["servers"]) <= 2 + MAX_LEARNT)
    wait_until(lambda: len(client._cluster.pool.connections) <= 2 + MAX_LEARNT)


def test_servers_that_moved_away_are_forgotten(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_period=0.05, refresh_interval=0.01)
    table = client.table("temp")
    table.warm_up()
    for _ in range(20):
        server = FakeServer()
        stage.meta.primaries = [server.address]
        stage.meta.secondaries = [dead_address()]
        wait_until(lambda at=server.address: at in table._dispatcher.routes.servers())  # type: ignore[misc]
        assert table.get("h", "s") is None
        server.stop()
    # The connection to the first server, which is alive, is closed, too.
    wait_until(lambda: len(client.stats()["servers"]) == 2)
    wait_until(lambda: len(client._cluster.pool.connections) == 1)
    last = stage.extra(FakeServer())
    stage.meta.primaries = [last.address]
    wait_until(lambda: last.address in client.stats()["servers"])
    assert table.get("h", "s") is None
    assert client.stats()["servers"][last.address]["state"] == "open"


def test_servers_of_admin_requests_are_forgotten_by_a_client_without_tables(stage: Stage) -> None:
    server = stage.extra(FakeServer(lambda link, request: link.reply(request, error="ERR_HANDLER_NOT_FOUND")))
    client = stage.client(refresh_period=0.05)
    admin = client.admin
    for _ in range(20):
        assert isinstance(ends(admin.remote_command, dead_address(), "help"), errors.ConnectFailed)

    def used_servers_are_left() -> bool:
        assert isinstance(ends(admin.remote_command, server.address, "help"), errors.ServerError)
        return set(client.stats()["servers"]) == {server.address}

    wait_until(used_servers_are_left)
    assert len(server.links) == 1


def test_a_server_that_no_route_names_keeps_its_calls_in_flight(stage: Stage) -> None:
    old = stage.server(silent)
    new = stage.extra(FakeServer())
    client = stage.client(refresh_period=0.03, refresh_interval=0.01, silence=60.0)
    table = client.table("temp")
    caller = gevent.spawn(ends, table.get, "h", "s")
    wait_until(lambda: len(old.requests) == 1)
    stage.meta.primaries = [new.address]
    wait_until(lambda: new.address in table._dispatcher.routes.servers())
    gevent.sleep(0.2)
    old.links[0].value(old.requests[0], b"late")
    assert caller.get() == b"late"
    wait_until(lambda: old.address not in client.stats()["servers"])


def test_lookups_of_a_missing_table_end(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_period=0.05, refresh_interval=0.01)
    gc.disable()
    try:
        for number in range(MAX_UNKNOWN + 50):
            assert isinstance(ends(client.table(f"none {number}").get, "h"), errors.TableNotFound)
        # Not even the garbage collector is needed.
        wait_until(lambda: len(client._cluster.tables) <= MAX_UNKNOWN)
    finally:
        gc.enable()
    assert_queries_end(stage)
    assert len(client.stats()["tables"]) <= MAX_UNKNOWN


def test_names_of_missing_tables_leave_no_limiter_and_no_time_of_a_query(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_period=0.0)
    for number in range(2 * MAX_KEPT + 50):
        assert isinstance(ends(client.table(f"none {number}", max_rate=1000.0).get, "h"), errors.TableNotFound)
    gc.collect()
    assert len(client._cluster.limiters) <= MAX_KEPT
    assert not client._cluster.queries.answered
    assert not client._cluster.queries.started


def test_handles_with_changing_policies_and_limits_leave_a_limited_number_of_variants(stage: Stage) -> None:
    client = stage.client()
    used = client.table("temp", max_rate=1.0)
    gc.disable()
    try:
        for number in range(MAX_VARIANTS):
            client.table("temp", max_rate=1000.0 + number)
            client.table("temp", hedge=HedgePolicy(delay=1.0 + number))
        # Not even the garbage collector is needed.
        assert len(client.table("temp")._home._variants) == MAX_VARIANTS + 1
        assert len(client._cluster.limiters) <= MAX_KEPT + 1
    finally:
        gc.enable()
    assert client.table("temp", max_rate=1.0)._home is used._home


def test_the_time_of_the_last_query_is_forgotten_with_the_table(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_period=0.02, refresh_interval=0.01)
    table = client.table("temp")
    table.warm_up()
    assert set(client._cluster.queries.answered) == {"temp"}
    stage.meta.table = "another"
    wait_until(lambda: not client._cluster.queries.answered)


def test_lookups_of_a_missing_table_keep_the_minimum_interval(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_interval=0.1)
    begin = monotonic()
    while monotonic() - begin < 0.35:
        assert isinstance(ends(client.table("none").get, "h"), errors.TableNotFound)
    assert len(stage.meta.queries) <= 2 + (monotonic() - begin) / 0.1


def test_a_table_created_later_is_found_by_older_handles(stage: Stage) -> None:
    """Older table handles then use the same routes as new ones."""
    stage.server()
    client = stage.client(refresh_interval=0.01, refresh_period=0.05)
    early = client.table("late")
    assert isinstance(ends(early.get, "h"), errors.TableNotFound)
    for number in range(MAX_UNKNOWN + 50):
        client.table(f"none {number}")
    stage.meta.table = "late"
    assert early.get("h") is None
    assert client.table("late")._dispatcher is early._dispatcher
    del early
    gc.collect()
    # It exists now, so its routes are kept, and kept up to date.
    before = len(stage.meta.queries)
    wait_until(lambda: len(stage.meta.queries) >= before + 2)
    assert client.stats()["tables"]["late"]["calls"] == 2


def test_lookups_of_a_dropped_table_end(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_interval=0.01, refresh_period=0.03)
    client.table("temp").get("h")
    stage.meta.table = "another"
    wait_until(lambda: isinstance(client._cluster.tables["temp"].routes.error, errors.TableNotFound))
    assert_queries_end(stage)


def test_stats_can_be_read_in_another_thread_while_tables_and_servers_are_added(stage: Stage) -> None:
    stage.server()
    client = stage.client(refresh_interval=0.001)
    pool = gevent.get_hub().threadpool
    stop: list[bool] = []

    def read() -> int:
        times = 0
        while not stop:
            client.stats()
            repr(client)
            repr(client._cluster)
            repr(client._cluster.tables)
            times += 1
        return times

    reader = pool.spawn(read)
    try:
        for number in range(3000):
            client.table(f"table {number}")
            client._cluster.pool.peer(f"10.0.{number // 250}.{number % 250}:34801")
            if number % 100 == 0:
                client._cluster.pool.forget_peers(set(), 0.0)
                gevent.sleep(0.001)
    finally:
        stop.append(True)
    assert (reader.get() or 0) > 0


def test_a_link_local_address_of_a_name_keeps_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can dial it without."""
    found = [("fe80::1", 34601, 0, 2), ("fe80::2%eth0", 34601, 0, 2), ("::1", 34601, 0, 0), ("127.0.0.1", 34601)]
    monkeypatch.setattr(reach, "resolve", lambda _address: [(None, None, None, None, one) for one in found])
    expected = ["[fe80::1%2]:34601", "[fe80::2%eth0]:34601", "[::1]:34601", "127.0.0.1:34601"]
    assert reach.addresses_of("meta.example:34601") == expected
