"""Test queries to the meta servers: the order of servers, what is learned, and the time limits."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import socket

from pegasus_green import Client, errors
from pegasus_green.cluster import meta as meta_module
from pegasus_green.protocol.framing import Request
from pegasus_green.protocol.meta import CreateAppRequest, CreateAppResponse
from pegasus_green.protocol.rpc import CREATE_APP, Rpc
from tests.transport.fakes import BlackHole, FakeMeta, FakeServer, Link, Stage, dead_address, silent
from tests.waiting import Stopwatch, wait_until


def ends(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except errors.PegasusError as error:
        return error


def timed(call: Any, *args: Any, **kwargs: Any) -> Stopwatch:
    watch = Stopwatch()
    call(*args, **kwargs)
    return watch.stop()


class Metas:
    """Several meta servers of one table, whose primary is one replica server."""

    def __init__(self, stage: Stage, count: int) -> None:
        self.stage = stage
        self.server = stage.server()
        self.all: list[FakeMeta] = [stage.extra(FakeMeta([self.server.address])) for _ in range(count)]

    def follow(self, leader: FakeMeta | None, known: bool = True) -> None:
        """Let all meta servers but one forward to it, or to no server."""
        for meta in self.all:
            meta.error = "ERR_OK" if meta is leader else "ERR_FORWARD_TO_OTHERS"
            meta.forward = leader.address if leader is not None and known else ""

    def client(self, *metas: FakeMeta, **options: Any) -> Client:
        return self.stage.client([meta.address for meta in metas or self.all], **options)


@pytest.fixture
def metas(stage: Stage) -> Metas:
    return Metas(stage, 3)


def test_forward_is_followed_at_once_and_remembered(metas: Metas) -> None:
    first, second, third = metas.all
    metas.follow(third)
    client = metas.client(refresh_interval=0.01, meta_stagger=60.0)
    table = client.table("temp")
    assert timed(table.set, "a", "b", b"c").seconds < 1.0
    assert (len(first.queries), len(second.queries), len(third.queries)) == (1, 0, 1)
    for _ in range(3):
        gevent.sleep(0.02)
        table._dispatcher.routes.request()
    wait_until(lambda: len(third.queries) == 4)
    # From now on only the leader is asked.
    assert (len(first.queries), len(second.queries)) == (1, 0)


def test_forward_to_a_server_that_was_not_configured(metas: Metas) -> None:
    first, _, stranger = metas.all
    metas.follow(stranger)
    client = metas.client(first, refresh_interval=0.01)
    table = client.table("temp")
    table.set("a", "b", b"c")
    assert len(stranger.queries) == 1
    assert client._cluster.meta.addresses == [first.address, stranger.address]
    # From then on it is asked first, and it stays known when it is no longer the leader.
    metas.follow(first)
    table._dispatcher.routes.request()
    wait_until(lambda: len(first.queries) == 2)
    assert len(stranger.queries) == 2


def test_forward_without_an_address_goes_to_the_next(metas: Metas) -> None:
    metas.follow(metas.all[2], known=False)
    table = metas.client(meta_stagger=60.0).table("temp")
    assert timed(table.set, "a", "b", b"c").seconds < 1.0
    assert [len(meta.queries) for meta in metas.all] == [1, 1, 1]


def test_forward_in_a_circle_ends_with_the_deadline(metas: Metas) -> None:
    first, second, _ = metas.all
    for meta, other in ((first, second), (second, first)):
        meta.error, meta.forward = "ERR_FORWARD_TO_OTHERS", other.address
    error = ends(metas.client(first, second).table("temp").get, "a", "b", timeout=1.0)
    assert isinstance(error, errors.MetaUnreachable)
    assert "not the leader" in str(error)
    assert len(first.queries) < 12


def test_ping_finds_a_leader_that_was_not_configured(metas: Metas) -> None:
    """A follower names the leader only in its answer to a route query."""
    first, second, third = metas.all
    metas.follow(third)
    client = metas.client(first)
    client.ping()
    assert client._cluster.meta.leader == third.address
    assert (len(first.queries), len(third.queries)) == (1, 0)
    # The leader changes while the client runs.
    metas.follow(second)
    client.ping()
    assert client._cluster.meta.leader == second.address


def test_a_ping_without_a_leader_asks_with_pauses(metas: Metas) -> None:
    metas.follow(None)
    error = ends(metas.client().ping, 1.0)
    assert isinstance(error, errors.MetaUnreachable)
    assert isinstance(error.last_error, errors.PegasusError)
    assert error.last_error.code == "ERR_FORWARD_TO_OTHERS"
    # Each round is a ping and the question who leads.
    assert all(len(meta.requests) <= 14 for meta in metas.all)


def test_silent_first_costs_a_quarter_of_a_second(metas: Metas) -> None:
    first, second, _ = metas.all
    first.handler = silent
    client = metas.client(first, second, refresh_interval=0.01)
    table = client.table("temp")
    watch = timed(table.set, "a", "b", b"c")
    assert watch.elapsed > 0.2
    assert watch.seconds < 0.9
    # The next time the server that answered is asked first.
    before = len(first.requests)
    table._dispatcher.routes.request()
    wait_until(lambda: len(second.queries) == 2)
    assert len(first.requests) == before


def test_the_first_good_answer_is_used_even_if_it_is_late(metas: Metas) -> None:
    """The first server is slow and the second is a follower: the answer of the first is used when it arrives."""
    first, second, _ = metas.all
    metas.follow(first, known=False)
    first.delay = 0.6
    watch = timed(metas.client(first, second).table("temp").set, "a", "b", b"c")
    assert watch.elapsed > 0.5
    assert watch.seconds < 1.5
    assert len(first.queries) == 1


@pytest.mark.parametrize("dead", ["refused", "black hole", "silent"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_dead_meta_server_of_three_delays_by_one_connect_timeout_at_most(
    metas: Metas, dead: str, place: int
) -> None:
    """The dead server may be at any place in the list; the connect timeout is 1 s."""
    addresses = [meta.address for meta in metas.all]
    addresses[place] = {
        "refused": dead_address,
        "black hole": lambda: metas.stage.extra(BlackHole()).address,
        "silent": lambda: metas.stage.extra(FakeServer(silent)).address,
    }[dead]()
    table = metas.stage.client(addresses).table("temp")
    assert timed(table.warm_up).seconds < 0.9


@pytest.mark.parametrize("state", ["refused", "black hole", "silent", "no leader"])
def test_with_all_meta_servers_dead_a_call_ends_at_its_deadline(metas: Metas, state: str) -> None:
    metas.follow(None)
    addresses: dict[str, Callable[[], list[str]]] = {
        "refused": lambda: [dead_address(), dead_address()],
        "black hole": lambda: [metas.stage.extra(BlackHole()).address for _ in range(2)],
        "silent": lambda: [metas.stage.extra(FakeServer(silent)).address for _ in range(2)],
        "no leader": lambda: [meta.address for meta in metas.all],
    }
    client = metas.stage.client(addresses[state](), timeout=0.7)
    watch = Stopwatch()
    calls = (client.table("temp").warm_up, client.ping, lambda: client.table("other").get("a"))
    for caller in [gevent.spawn(ends, call) for call in calls]:
        error = caller.get()
        assert watch.elapsed >= 0.7
        assert watch.seconds < 1.5
        assert isinstance(error, errors.MetaUnreachable)
        assert isinstance(error, TimeoutError)
        if state in ("refused", "no leader"):
            assert {"refused": "refused", "no leader": "not the leader"}[state] in str(error)
        hint = (
            "the meta servers answer, but none is the leader"
            if state == "no leader"
            else "nothing answers on this machine"
        )
        assert f"HINT: {hint}" in str(error)


def test_a_server_that_is_not_active_is_asked_again_with_pauses(metas: Metas) -> None:
    """A leader that loads its state is asked again, with growing pauses."""
    first, second, third = metas.all
    metas.follow(first)
    first.error = "ERR_SERVICE_NOT_ACTIVE"
    table = metas.client().table("temp")
    caller = gevent.spawn(table.set, "a", "b", b"c", timeout=20.0)
    gevent.sleep(1.0)
    first.error = "ERR_OK"
    caller.get()
    assert 3 <= len(first.queries) <= 10
    assert len(second.queries) <= 9
    assert len(third.queries) <= 9


@pytest.mark.parametrize("error", ["ERR_BUSY_CREATING", "ERR_UNDER_RECOVERY", "ERR_SERVICE_NOT_ACTIVE"])
def test_transient_states_of_a_table_are_waited_for(metas: Metas, error: str) -> None:
    metas.all[0].error = error
    table = metas.client(metas.all[0], refresh_interval=0.05).table("temp")
    caller = gevent.spawn(table.set, "a", "b", b"c", timeout=20.0)
    gevent.sleep(0.2)
    metas.all[0].error = "ERR_OK"
    caller.get()


def test_a_table_that_stays_unavailable_is_reported_with_its_state(metas: Metas) -> None:
    metas.all[0].error = "ERR_BUSY_CREATING"
    error = ends(metas.client(metas.all[0]).table("temp").get, "a", "b", timeout=1.0)
    assert isinstance(error, errors.RequestTimeout)
    assert "ERR_BUSY_CREATING" in str(error)


def test_a_missing_table_fails_at_once_with_its_own_error(metas: Metas) -> None:
    client = metas.client()
    watch = Stopwatch()
    for call in (lambda: client.table("nothing").get("a"), client.table("nowhere").warm_up):
        error = ends(call)
        assert isinstance(error, errors.TableNotFound)
        assert isinstance(error, LookupError)
        assert not isinstance(error, errors.MetaError)
        assert "does not exist" in str(error)
    assert watch.seconds < 1.5


def test_table_that_is_being_dropped_is_missing_at_once(metas: Metas) -> None:
    metas.all[0].error = "ERR_BUSY_DROPPING"
    watch = Stopwatch()
    error = ends(metas.client(metas.all[0]).table("temp").get, "a")
    assert watch.seconds < 1.5
    assert isinstance(error, errors.TableNotFound)


def test_acl_deny_is_raised_at_once(metas: Metas) -> None:
    metas.all[0].error = "ERR_ACL_DENY"
    watch = Stopwatch()
    error = ends(metas.client(metas.all[0]).table("temp").get, "a")
    assert watch.seconds < 1.5
    assert isinstance(error, errors.MetaError)
    assert error.code == "ERR_ACL_DENY"


def test_leader_that_dies_is_replaced(metas: Metas) -> None:
    first, second, _ = metas.all
    metas.follow(first)
    client = metas.client(refresh_interval=0.01)
    table = client.table("temp")
    table.set("a", "b", b"c")
    first.stop()
    metas.follow(second)
    begin = len(second.queries)
    table._dispatcher.routes.request()
    wait_until(lambda: client._cluster.meta.leader == second.address)
    assert len(second.queries) > begin


def test_name_that_changes_its_address(metas: Metas, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all servers of the list have failed, names are resolved again within the deadline of the caller."""
    port = {"meta.example": int(dead_address().rpartition(":")[2])}
    real = socket.getaddrinfo

    def lookup(host: str, number: int, *rest: Any) -> Any:
        return real("127.0.0.1", port[host], *rest) if host in port else real(host, number, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    table = metas.stage.client(["meta.example:34601"]).table("temp")
    caller = gevent.spawn(table.set, "a", "b", b"c", timeout=20.0)
    gevent.sleep(0.2)
    port["meta.example"] = metas.all[0].port
    caller.get()


def test_hundred_callers_of_a_new_table_ask_once(metas: Metas) -> None:
    metas.all[0].delay = 0.1
    table = metas.client(metas.all[0], meta_stagger=60.0).table("temp")
    callers = [gevent.spawn(table.get, f"h{n}", "s") for n in range(100)]
    gevent.joinall(callers, raise_error=True)
    assert len(metas.all[0].queries) == 1
    assert len(metas.all[0].links) == 1


def test_many_tables_share_one_meta_connection(stage: Stage) -> None:
    server = stage.server()
    client = stage.client()

    def ask(number: int) -> Any:
        stage.meta.table = f"t{number}"
        client.table(f"t{number}").get("a")

    for number in range(5):
        ask(number)
    assert len(stage.meta.links) == 1
    assert len(server.links) == 1


def test_ping_measures_and_fails_fast(metas: Metas) -> None:
    client = metas.client()
    assert 0.0 < client.ping() < 1.5
    bad = metas.stage.client([dead_address()])
    watch = Stopwatch()
    assert isinstance(ends(bad.ping, 0.2), errors.MetaUnreachable)
    assert watch.elapsed >= 0.2
    assert watch.seconds < 1.0


def test_the_query_continues_when_its_first_caller_is_killed(metas: Metas) -> None:
    metas.all[0].delay = 0.2
    client = metas.client(metas.all[0], meta_stagger=60.0)
    table = client.table("temp")
    callers = [gevent.spawn(table.get, f"h{n}", "s", default=n) for n in range(5)]
    pinger = gevent.spawn(client.ping)
    gevent.sleep(0.05)
    callers[0].kill()
    pinger.kill()
    gevent.joinall(callers[1:], raise_error=True)
    assert [caller.value for caller in callers[1:]] == [1, 2, 3, 4]
    assert len(metas.all[0].queries) == 1
    assert not client._cluster.meta._calls


# ------------------------------------------------------------------------------------------------ what is not repeated
def create(client: Client, timeout: float) -> Any:
    request = CreateAppRequest(app_name="new")
    return ends(client._cluster.meta.call, CREATE_APP, request, monotonic() + timeout)


@pytest.mark.parametrize("answered", [b"\x08\0\1\0", None], ids=["unreadable", "never"])
def test_a_creation_is_sent_only_once(stage: Stage, answered: bytes | None) -> None:
    """After a server may have executed it, no server is asked again; the error says that the outcome is unknown."""

    def handler(link: Link, request: Request) -> None:
        if answered is not None:
            link.reply(request, answered)

    servers = [stage.extra(FakeServer(handler)) for _ in range(3)]
    client = stage.client([server.address for server in servers])
    error = create(client, 1.0)
    assert isinstance(error, errors.PegasusError)
    assert error.outcome_unknown
    assert sum(len(server.requests) for server in servers) == 1


@pytest.mark.parametrize("through", ["meta client", "admin"])
def test_a_creation_without_an_answer_has_an_unknown_outcome_after_another_server_failed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """The last error is that of a server that has certainly not executed it. The other one may have."""
    dead, quiet = dead_address(), stage.extra(FakeServer(silent))
    client = stage.client([dead, quiet.address])
    meta = client._cluster.meta
    meta.leader = dead
    outcome = meta._outcome

    def late(address: str, rpc: Rpc, argument: bytes, deadline: float, *rest: Any) -> Any:
        # As in a process that computes at the deadline, the call ends before the request does.
        return outcome(address, rpc, argument, deadline + 1.0, *rest)

    monkeypatch.setattr(meta, "_outcome", late)
    if through == "admin":
        error = ends(client.admin.create_table, "new", 2, timeout=1.0)
    else:
        error = create(client, 1.0)
    assert isinstance(error, errors.MetaUnreachable)
    assert isinstance(error.last_error, errors.ConnectFailed)
    assert len(quiet.requests) == 1
    assert error.outcome_unknown


def test_a_creation_that_no_server_has_received_has_a_known_outcome(stage: Stage) -> None:
    hole = stage.extra(BlackHole())
    client = stage.client([dead_address(), hole.address])
    error = create(client, 0.3)
    assert isinstance(error, errors.MetaUnreachable)
    assert not error.outcome_unknown


def test_a_refused_creation_is_sent_to_the_next_server(stage: Stage) -> None:
    refusing = stage.extra(FakeServer(lambda link, request: link.reply(request, error="ERR_HANDLER_NOT_FOUND")))
    leader = stage.extra(FakeServer(lambda link, request: link.reply(request, CreateAppResponse(appid=7))))
    client = stage.client([refusing.address, leader.address])
    assert create(client, 2.0).appid == 7
    assert (len(refusing.requests), len(leader.requests)) == (1, 1)


def refuse_to_lead(link: Link, request: Request) -> None:
    """Answer as a server that is not the leader, and do not name the leader."""
    if request.name == CREATE_APP.name:
        link.reply(request, CreateAppResponse(err="ERR_FORWARD_TO_OTHERS"))


def test_a_creation_goes_to_the_next_server_if_a_follower_does_not_name_the_leader(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_module, "NAMING_SECONDS", 0.1)
    follower = stage.extra(FakeServer(refuse_to_lead))
    leader = stage.extra(FakeServer(lambda link, request: link.reply(request, CreateAppResponse(appid=7))))
    client = stage.client([follower.address, leader.address])
    assert create(client, 10.0).appid == 7
    assert [len(server.requests) for server in (follower, leader)] == [2, 1]


def test_a_creation_that_a_follower_has_refused_has_a_known_outcome(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stage.client([stage.extra(FakeServer(refuse_to_lead)).address])
    meta = client._cluster.meta
    outcome = meta._outcome

    def late(address: str, rpc: Rpc, argument: bytes, deadline: float, *rest: Any) -> Any:
        # As in a process that computes at the deadline, the call ends before the question who leads does.
        return outcome(address, rpc, argument, deadline + 1.0, *rest)

    monkeypatch.setattr(meta, "_outcome", late)
    error = create(client, 0.4)
    assert isinstance(error, errors.MetaUnreachable)
    assert not error.outcome_unknown
