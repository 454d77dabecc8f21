"""Test fork(): the parent loses no reply, the child has its own connections, and nothing is executed twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import gevent
import pytest

from pegasus_green.onebox import Onebox
from pegasus_green.protocol.framing import Request, encode_reply
from pegasus_green.protocol.rrdb import ReadResponse
from tests.fork.forking import WAYS
from tests.transport.fakes import FakeServer, Link, Stage, answer, silent
from tests.transport.scripts import run_script

PRELUDE = """
import gevent, os, sys, time
from pegasus_green import Client, ForkedConnection
from tests.fork.forking import end_of, ends_at_a_fork, fork
from tests.waiting import Stopwatch
metas, way = sys.argv[1].split(","), sys.argv[2]
client = Client(metas, timeout=8.0, refresh_period=0.0)
table = client.table("temp")
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Onebox]:
    with Onebox(replicas=3, tables={"temp": 8}) as box:
        yield box


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


def run(body: str, metas: list[str], way: str, *arguments: str) -> str:
    # These tests fork processes with (resolver) threads, which is a warning since Python 3.12.
    return run_script(PRELUDE + body, ",".join(metas), way, *arguments, warn="ignore")


@pytest.mark.parametrize("way", WAYS)
def test_a_fork_with_calls_in_flight_loses_and_repeats_no_call(box: Onebox, way: str) -> None:
    """The process forks three times while forty greenlets work. Each request is executed once."""
    box.forget_executions()
    box.fault("delay", rpc=["incr", "get", "put"], seconds=0.05)
    before = box.stats()["accepted"]
    try:
        out = run(
            """
results, copies, mine = [], [], os.getpid()

def work(number):
    # A copy of this greenlet continues in each child as soon as the hub of the child runs.
    for step in range(8):
        value = f"value-{number}-{step}."
        for call, expected in (
            (lambda: table.incr(f"mark-{way}-{number}-{step}.", "n"), 1),
            (lambda: table.set(f"row-{number}", str(step), value), None),
            (lambda: table.get(f"row-{number}", str(step)), value.encode()),
        ):
            end = end_of(call)
            if os.getpid() != mine:
                copies.append(end)
                return
            assert end == repr(expected), end
        results.append(end)

def child():
    copies.clear()
    own = [gevent.spawn(end_of, table.incr, f"child-{os.getpid()}-{n}.", "n") for n in range(10)]
    gevent.joinall(own)
    assert [one.value for one in own] == ["1"] * 10, [one.value for one in own]
    assert len(client._cluster.pool.connections) <= 4
    gevent.sleep(0.3)
    # Copies of calls in flight end with ForkedConnection and make no further step.
    assert set(copies) <= {"ForkedConnection"}, copies
    assert len(client._cluster.pool.connections) <= 4

workers = [gevent.spawn(work, number) for number in range(40)]
waits = []
for _ in range(3):
    gevent.sleep(0.1)
    waits.append(fork(way, child))
gevent.joinall(workers, raise_error=True)
print(len(set(results)), len(results), [wait() for wait in waits])
client.close()
            """,
            box.meta_addresses,
            way,
        )
    finally:
        box.clear_faults()
    assert out == "320 320 [0, 0, 0]\n"
    marks = box.execution_counts(rb"mark-[a-z.]+-\d+-\d+\.")
    assert len(marks) == 320
    assert set(marks.values()) == {1}
    values = box.execution_counts(rb"value-\d+-\d+\.")
    assert len(values) == 320
    assert set(values.values()) == {1}
    children = box.execution_counts(rb"child-\d+-\d+\.")
    assert len(children) == 30
    assert set(children.values()) == {1}
    # The connections of one process: a meta server and three replica servers. There were four processes.
    assert 4 <= box.stats()["accepted"] - before <= 16
    assert not box.client_bugs


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing", "in C"])
def test_a_fork_in_a_caller_with_a_new_reply_does_not_wake_the_others_in_the_child(stage: Stage, way: str) -> None:
    """The pass of the reader continues in the child, too, where it must not deliver the other replies."""
    held: list[tuple[Link, Request]] = []

    def together(link: Link, request: Request) -> None:
        if b"fork" in request.data:
            held.append((link, request))
            if len(held) == 100:
                replies = [encode_reply(r.name, r.seqid, result=ReadResponse(value=b"first").encode()) for _, r in held]
                link.send(b"".join(replies))
        else:
            answer(link, request)

    server = stage.server(together)
    out = run(
        """
from pegasus_green.transport import connection

connection.SECONDS_A_PASS = 60.0  # the pass continues with the other replies, even after a slow fork
table.warm_up()
parent, ends, waits = os.getpid(), [], []

def child():
    gevent.sleep(0.3)

def work(number):
    end = end_of(table.get, f"fork-{number}", "s")
    ends.append((os.getpid(), end))
    if number == 3:
        waits.append(fork(way, child))
    if end == "b'first'":
        end_of(table.incr, f"mark-{number}.", "n")

workers = [gevent.spawn(work, number) for number in range(100)]
gevent.joinall(workers, raise_error=True)
print(len([1 for pid, end in ends if pid == parent and end == "b'first'"]), [wait() for wait in waits])
client.close()
        """,
        [stage.meta.address],
        way,
    )
    assert out == "100 [0]\n"
    counts = Counter(
        request.data[request.data.index(b"mark-") :].split(b".")[0]
        for request in server.requests
        if b"mark-" in request.data
    )
    assert len(counts) == 100
    assert set(counts.values()) == {1}
    assert len(server.links) == 1


def test_a_fork_after_a_lost_connection_does_not_repeat_calls_in_the_child(stage: Stage) -> None:
    """In the child the other callers must not repeat their calls because of the lost connection."""

    def handler(link: Link, request: Request) -> None:
        if link is not server.links[0]:
            answer(link, request)
        elif len(link.requests) == 20:
            link.close()

    server = stage.server(handler)
    out = run(
        """
table.warm_up()
parent, ends, waits = os.getpid(), [], []

def work(number):
    end = end_of(table.incr if not number else table.set, f"mark-{number}.", "n", *([] if not number else [b"v"]))
    ends.append((os.getpid(), end))
    if not number:
        waits.append(fork(way, child))

def child():
    gevent.sleep(0.3)
    assert {end for pid, end in ends if pid != parent} == {"ForkedConnection"}, ends

gevent.joinall([gevent.spawn(work, number) for number in range(20)], raise_error=True)
print([wait() for wait in waits], sorted({end for pid, end in ends}))
client.close()
        """,
        [stage.meta.address],
        "os.fork",
    )
    assert out == "[0] ['ConnectionLost', 'None']\n"
    assert [len(link.requests) for link in server.links] == [20, 19]


PLACES = ("reply", "routes", "dial", "back-off", "room", "many", "async", "ping", "stagger", "turn", "pace")


# The ways differ only in what they do to the hub, so each place and each way occurs once.
@pytest.mark.parametrize(
    ("way", "place"),
    [
        *(("os.fork", place) for place in PLACES),
        *((way, place) for way in WAYS[1:] for place in ("dial",)),
    ],
)
def test_a_fork_while_a_call_waits_makes_no_traffic_in_the_child(stage: Stage, way: str, place: str) -> None:
    """At the fork a call waits for something. The child runs its hub and uses nothing: it makes no traffic, and the
    parent's call is executed once."""
    seen: list[bytes] = []

    def handler(link: Link, request: Request) -> None:
        seen.append(request.data)
        if place == "back-off" and len(seen) < 3:
            link.reply(request, error="ERR_BUSY")
        elif place == "pace":
            answer(link, request)
        elif b"mark" in request.data or place == "room":
            gevent.spawn_later(0.25, answer, link, request)
        else:
            answer(link, request)

    server = stage.server(handler)
    if place in ("routes", "ping", "stagger"):
        stage.meta.delay = 0.3 if place != "stagger" else 0.6
    metas = [stage.meta.address]
    other = stage.extra(FakeServer(silent))
    if place == "stagger":
        metas.append(other.address)
    out = run(
        """
from gevent import socket
from pegasus_green import RetryPolicy
place, parent = sys.argv[3], os.getpid()
options = {"max_in_flight": 1} if place == "room" else {}
client = Client(metas, timeout=8.0, refresh_period=0.15, silence=5.0, retry=RetryPolicy(base=0.05, cap=0.1), **options)
table = client.table("temp", max_rate=4 if place == "turn" else None)
if place not in ("routes", "ping", "dial", "stagger"):
    table.warm_up()
if place == "dial":
    real = socket.getaddrinfo
    def slow(*args):
        gevent.sleep(0.2)
        return real(*args)
    table._dispatcher.routes.request()
    while table._dispatcher.routes.table is None:
        gevent.sleep(0.01)
    socket.getaddrinfo = slow
calls = {
    "many": lambda: end_of(table.set_many, [(f"mark{n}", "s", b"v") for n in range(10)], concurrency=5),
    "async": lambda: end_of(table.set_async("mark", "s", b"v").get),
    "ping": lambda: end_of(lambda: client.ping() > 0),
    "stagger": lambda: end_of(lambda: client.ping() > 0),
    "turn": lambda: end_of(table.set_many, [(f"mark{n}", "s", b"v") for n in range(4)]),
    "pace": lambda: end_of(table.set_stream, [(f"mark{n}", "s", b"v") for n in range(4)], rate=4),
}
ends = []
def call(number):
    end = calls.get(place, lambda: end_of(table.incr, f"mark{number}", "n"))()
    ends.append((os.getpid(), end))
begin = time.monotonic()
callers = [gevent.spawn(call, number) for number in range(3 if place == "room" else 1)]
gevent.sleep(0.1)

def child():
    # Its hub runs, and the copies of all greenlets run with it.
    gevent.sleep(0.5)
    assert {end for pid, end in ends if pid != parent} <= {"ForkedConnection"}, ends
    assert not client._cluster.pool.connections, client._cluster.pool.connections

status = fork(way, child)
gevent.joinall(callers, raise_error=True)
print(sorted(end for _, end in ends)[-1][:8], status())
print((time.monotonic() - begin) / 0.12 + 3)
client.close()
        """,
        metas,
        way,
        place,
    )
    expected = {
        "many": "[None, N",
        "turn": "[None, N",
        "pace": "4",
        "async": "None",
        "ping": "True",
        "stagger": "True",
    }.get(place, "1")
    end, queries = out.splitlines()
    assert end == f"{expected} 0"
    counts = Counter(data[data.index(b"mark") :][:6] for data in seen if b"mark" in data)
    assert set(counts.values()) <= {3 if place == "back-off" else 1}, counts
    # The periodic refresh and the call use the connections and the query rate of one process.
    assert len(stage.meta.links) == 1
    assert len(server.links) <= 1
    assert len(other.links) == (place == "stagger")
    assert len(stage.meta.queries) <= float(queries)


@pytest.mark.parametrize("way", WAYS)
def test_a_child_that_does_not_use_the_client_makes_no_traffic(stage: Stage, way: str) -> None:
    """The end of the child does not affect the connections of the parent, either."""
    server = stage.server()
    out = run(
        """
begin = time.monotonic()
client = Client(metas, refresh_period=0.1)
table = client.table("temp")
table.set("a", "b", b"c")
waits = [fork(way, lambda: gevent.sleep(0.35)), fork(way, lambda: None), fork(way, client.close)]
statuses = [wait() for wait in waits]
print(statuses, table.get("a", "b"), client.stats()["servers"][metas[0]]["losses"])
print((time.monotonic() - begin) / 0.075 + 2)
client.close()
        """,
        [stage.meta.address],
        way,
    )
    end, queries = out.splitlines()
    assert end == "[0, 0, 0] b'c' 0"
    assert [len(server.links), len(stage.meta.links)] == [1, 1]
    assert len(server.requests) == 2
    # Only the parent sends queries, and it sends at most this many.
    assert len(stage.meta.queries) <= float(queries)


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
def test_child_and_grandchild_use_the_client(stage: Stage, way: str) -> None:
    """Each uses its own connections, dialled on first use, and the routes that the parent knew."""
    server = stage.server()
    out = run(
        """
table.set("a", "b", b"parent")

def grandchild():
    assert table.get("a", "b") == b"child"
    table.set("a", "b", b"grandchild")

def child():
    assert table.get("a", "b") == b"parent"
    table.set("a", "b", b"child")
    assert fork(way, grandchild)() == 0
    assert table.get("a", "b") == b"grandchild"
    gevent.joinall([gevent.spawn(table.get, f"h{n}", "s") for n in range(50)], raise_error=True)

print(fork(way, child)(), table.get("a", "b"))
client.close()
        """,
        [stage.meta.address],
        way,
    )
    assert out == "0 b'grandchild'\n"
    assert len(server.links) == 3


@pytest.mark.parametrize("way", ["os.fork"])
def test_children_use_a_client_that_the_parent_has_not_used(stage: Stage, way: str) -> None:
    """A preloaded application does this."""
    server = stage.server()
    out = run(
        """
print([fork(way, lambda n=n: table.set(f"h{n}", "s", b"v"))() for n in range(3)])
client.close()
        """,
        [stage.meta.address],
        way,
    )
    assert out == "[0, 0, 0]\n"
    assert len(server.links) == len(stage.meta.links) == 3
    assert len(server.requests) == 3


def test_a_child_with_a_new_event_loop_uses_the_client(stage: Stage) -> None:
    """Some servers discard the inherited loop in their workers; the client uses the new hub."""

    def slow(link: Link, request: Request) -> None:
        gevent.spawn_later(0.3 if b"slow" in request.data else 0, answer, link, request)

    server = stage.server(slow)
    out = run(
        """
table.set("a", "b", b"c")
waiting = gevent.spawn(end_of, table.get, "slow", "b")
gevent.sleep(0.05)

def child():
    gevent.get_hub().destroy(destroy_loop=True)
    assert table.get("a", "b") == b"c"
    gevent.joinall([gevent.spawn(table.get, f"h{n}", "s") for n in range(20)], raise_error=True)
    client.close()

print(fork(way, child)(), table.get("a", "b"), waiting.get())
client.close()
        """,
        [stage.meta.address],
        "os.fork",
    )
    assert out == "0 b'c' None\n"
    assert len(server.links) == 2


def test_the_parent_keeps_its_connections_when_children_are_killed(stage: Stage) -> None:
    """A killed child sends nothing on the connections of the parent."""
    server = stage.server()
    out = run(
        """
import signal
table.set("a", "b", b"c")
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        while True:
            gevent.sleep(0.01)
    good = sum(table.get("a", "b") == b"c" for _ in range(100))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    good += sum(table.get("a", "b") == b"c" for _ in range(100))
    assert good == 200
print(client.stats()["servers"][table._dispatcher.routes.table.routes[0].primary]["losses"])
client.close()
        """,
        [stage.meta.address],
        "os.fork",
    )
    assert out == "0\n"
    assert len(server.links) == 1


def test_importing_registers_the_hook_and_loads_no_gevent() -> None:
    out = run_script(
        """
import os, sys
calls = []
real = os.register_at_fork
os.register_at_fork = lambda **hooks: calls.append(hooks) or real(**hooks)
import pegasus_green
ours = [sorted(one) for one in calls if one["after_in_child"].__module__.startswith("pegasus_green")]
print(ours, any(name.partition(".")[0] in ("gevent", "greenlet") for name in sys.modules))
        """,
        patched=False,
    )
    assert out == "[['after_in_child']] False\n"


@pytest.mark.parametrize("verb", ["incr", "set_many"])
def test_a_waiting_call_of_the_parent_is_not_made_when_the_child_learns_routes(stage: Stage, verb: str) -> None:
    """At the fork the call waits for its first routes; its copy wakes when the child gets routes."""
    server = stage.server()
    stage.meta.delay = 0.8
    out = run(
        """
calls = {
    "incr": lambda: table.incr("h", "mark"),
    "set_many": lambda: table.set_many([("h", f"mark{n}", b"v") for n in range(3)]),
}
parent, copies = os.getpid(), []

def call():
    end = end_of(calls[sys.argv[3]])
    if os.getpid() != parent:
        copies.append(end)
    return end

caller = gevent.spawn(call)
gevent.sleep(0.1)

def child():
    assert table.get("x", "own") is None
    gevent.sleep(0.3)
    assert copies == ["ForkedConnection"], copies

status = fork(way, child)
print(caller.get(), status())
client.close()
        """,
        [stage.meta.address],
        "os.fork",
        verb,
    )
    assert out == {"incr": "1 0\n", "set_many": "[None, None, None] 0\n"}[verb]
    marks = Counter(
        request.data[request.data.index(b"mark") :][:5] for request in server.requests if b"mark" in request.data
    )
    assert set(marks.values()) == {1}


def test_a_fork_without_a_free_descriptor_disconnects_the_child(stage: Stage) -> None:
    """The descriptor that the child needs was made before."""

    def handler(link: Link, request: Request) -> None:
        gevent.spawn_later(1.0, answer, link, request)

    server = stage.server(handler)
    out = run(
        """
import resource
table.warm_up()
callers = [gevent.spawn(end_of, table.incr, "h", f"k{n}") for n in range(20)]
gevent.sleep(0.1)
highest = max(map(int, os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")))
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 12, limits[1]))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    os.close(taken.pop())

def child():
    # The loop of gevent needs some descriptors; the client no longer does.
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    gevent.sleep(0.8)
    assert {caller.value for caller in callers} == {"ForkedConnection"}, callers

status = fork(way, child)
for one in taken:
    os.close(one)
gevent.joinall(callers)
print({caller.value for caller in callers}, status())
client.close()
        """,
        [stage.meta.address],
        "os.fork",
    )
    assert out == "{'1'} 0\n"
    assert len(server.requests) == 20


def test_a_meta_request_that_waits_at_the_fork_is_sent_by_the_parent_only(stage: Stage) -> None:
    """At the fork the greenlet of the meta request has not started yet."""
    stage.server()
    out = run(
        """
pool = client._cluster.pool
spawn, waits = pool.spawn, []

def spawn_behind_a_fork(run, *args):
    if run == client._cluster.meta._ask and "CREATE" in args[2].name:
        gevent.spawn(lambda: waits.append(fork(way, lambda: gevent.sleep(0.5))))
    return spawn(run, *args)

pool.spawn = spawn_behind_a_fork
print(end_of(client.admin.create_table, "new", 4, wait=False, timeout=2.0), [wait() for wait in waits])
client.close()
        """,
        [stage.meta.address],
        "os.fork",
    )
    assert out.endswith(" [0]\n")
    assert sum("CREATE" in request.name for request in stage.meta.requests) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("warm", [False, True])
def test_a_request_of_admin_that_is_under_way_at_the_fork_ends_in_the_child(
    box: Onebox, way: str, *, warm: bool
) -> None:
    """The child's copies of the greenlets that ask the meta servers end. That is not an answer."""
    out = run(
        """
warm, seen = sys.argv[3] == "True", set()
for turns in (0, 1, 2, 4, 8):
    client = Client(sys.argv[1].split(","), timeout=5.0)
    if warm:
        client.table("temp").get("a", "b")
    name = f"new{warm}{turns}" + way.replace(".", "")
    ended = ends_at_a_fork(way, turns, client.admin.create_table, name, 4)
    if ended is None:
        break
    seen.add((ended[0].isdigit(), ended[1]))
    client.close()
print(seen)
        """,
        box.meta_addresses,
        way,
        str(warm),
    )
    assert out.endswith("{(True, 0)}\n")


@pytest.mark.parametrize("call", ["client.check('temp')", "table.warm_up()", "list(table.scan(parallel=3))"])
def test_a_call_that_waits_for_several_greenlets_at_the_fork_ends_in_the_child(box: Onebox, call: str) -> None:
    """The copies of these greenlets end in the child, or start there and connect. The call is not to return that."""
    out = run(
        """
table.set("a", "b", b"c")
for turns in range(4):
    ended = ends_at_a_fork(way, turns, eval, sys.argv[3], globals())
    if ended is None:
        break
    print(ended[1], end=" ")
client.close()
        """,
        box.meta_addresses,
        "os.fork",
        call,
    )
    assert set(out.split()) == {"0"}


def test_a_wait_for_a_healthy_table_ends_in_the_child(box: Onebox) -> None:
    box.kill(2)
    try:
        out = run(
            """
ends = []
job = gevent.spawn(lambda: ends.append(end_of(client.admin.wait_until_healthy, "temp", timeout=2.0)))
gevent.sleep(0.3)
def child():
    job.join(1.0)
    assert ends == ["ForkedConnection"], ends
status = fork(way, child)
job.join()
print(status(), ends)
client.close()
            """,
            box.meta_addresses,
            "os.fork",
        )
    finally:
        box.restart(2)
    assert out == "0 ['RequestTimeout']\n"


def test_the_first_route_query_of_the_child_stops_the_inherited_timer(stage: Stage) -> None:
    stage.server()
    out = run(
        """
client = Client(metas, refresh_period=0.5)
table = client.table("temp")
table.get("h", "s")
gevent.sleep(0.2)

def child():
    table.get("h", "s")
    client.close()
    gevent.sleep(0.8)

print(fork(way, child)())
client.close()
        """,
        [stage.meta.address],
        "os.fork",
    )
    assert out == "0\n"


def test_a_child_connects_to_numeric_addresses_without_a_resolver(stage: Stage) -> None:
    """After os.fork in a greenlet the resolver threads do not run yet."""
    stage.server()
    out = run(
        """
table.get("h", "s")

def child():
    watch = Stopwatch()
    table.get("h", "s")
    assert watch.seconds < 4.0, watch.seconds

print(gevent.spawn(lambda: fork(way, child)()).get())
client.close()
        """,
        [stage.meta.address],
        "os.fork",
    )
    assert out == "0\n"
