"""An interruption between two steps of a call gives no caller a wrong value and leaves nothing behind.

Each verb runs many times. In the n-th run the n-th opcode inside the package is interrupted: by an exception or by a
nested call. Then every value is compared, in a concurrent greenlet and afterwards. ``make test`` interrupts at a random
sample of the opcodes, ``make soak`` at all of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent
import pytest

from pegasus_green import (
    Client,
    HedgePolicy,
    Listener,
    MetaUnreachable,
    PegasusError,
    RequestTimeout,
    Table,
    accelerated,
)
from pegasus_green.onebox import Onebox
from pegasus_green.transport.connection import Connection
from tests.faults.interruptions import PACKAGE, Interrupted, Interruption
from tests.faults.tools import at_rest

pytestmark = [
    pytest.mark.onebox_only,
    # Python itself reports an exception in the callback of a weak reference.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEYS = [f"interrupted {number}" for number in range(8)]
ROWS = [b"row %d" % number for number in range(5)]
# Points of one verb, place and kind in `make test`: for verbs without and with helper greenlets.
SAMPLE, SMALL_SAMPLE = 12, 5
# While a hedged read is interrupted, servers delay every read by the first time; the hedge is sent after the second.
SLOW_READ, HEDGE_AFTER = 0.012, 0.004


# Interruptions of one kind of scan.
LAST_STEPS = 40
INTERRUPTED_SCANS = 60 if "PEGASUS_GREEN_SOAK_SECONDS" not in os.environ else 100_000


def value_of(key: str) -> bytes:
    return b"value of " + key.encode()


class Verb(NamedTuple):
    """A verb that is interrupted.

    Attributes:
        run: Makes the call.
        expected: What it returns.
        helpers: Whether it starts greenlets, which are interrupted, too.
        fresh: Whether it is the first call of a client.
        prepare: Called before each run.
        hedged: Whether reads go to secondaries, too.
        observed: Whether a listener observes the calls; it is interrupted, too.
    """

    run: Callable[[Client], Any]
    expected: Any
    helpers: bool = False
    fresh: bool = False
    prepare: Callable[[Client], object] = lambda _client: None
    hedged: bool = False
    observed: bool = False


class Observer(Listener):
    """Takes some steps at each event of a call."""

    def __init__(self) -> None:
        self.open = 0

    def call_started(self, *_details: Any) -> None:
        self.open = self.open + 1

    def call_finished(self, *_details: Any) -> None:
        self.open = self.open - 1


def table_of(client: Client) -> Table[bytes]:
    return client.table("temp")


def get(client: Client) -> bytes | None:
    return table_of(client).get(KEYS[7], "s", timeout=3.0)


def usual_get(client: Client) -> bytes | None:
    """Make a call with the default options, which take the shortest path."""
    return table_of(client).get(KEYS[7], "s")


def usual_set(client: Client) -> None:
    table_of(client).set(KEYS[7], "s", value_of(KEYS[7]))


def get_by_handles(client: Client) -> list[bytes | None]:
    return [one.get() for one in [table_of(client).get_async(key, "s", timeout=3.0) for key in KEYS[:3]]]


def scan(client: Client) -> list[bytes]:
    return [value for _, value in table_of(client).hash_scan("interrupted scan", batch_size=2, timeout=3.0)]


def forget_routes(client: Client) -> None:
    routes: Any = client._cluster.tables["temp"].routes
    routes.table = None
    # The minimum interval between two queries counts from here.
    routes._started = -1e9


def connect_secondaries(client: Client) -> None:
    """Connect to all servers first: a read without a connection to a secondary is not hedged."""
    routes: Any = client._cluster.tables["temp"].routes
    for address in routes.servers():
        client._cluster.pool.peer(address).connect(float("inf"))


def set_envs(client: Client) -> None:
    client.admin.set_envs("temp", {"business.info": "interrupted"}, timeout=3.0)


VERBS = {
    "get": Verb(get, value_of(KEYS[7])),
    "set": Verb(lambda client: table_of(client).set(KEYS[7], "s", value_of(KEYS[7]), timeout=3.0), None),
    "usual_get": Verb(usual_get, value_of(KEYS[7])),
    "usual_set": Verb(usual_set, None),
    "observed_get": Verb(usual_get, value_of(KEYS[7]), observed=True),
    "observed_set": Verb(usual_set, None, observed=True),
    "get_many": Verb(
        lambda client: table_of(client).get_many([(key, "s") for key in KEYS], timeout=3.0), [*map(value_of, KEYS)]
    ),
    "handles": Verb(
        get_by_handles,
        [*map(value_of, KEYS[:3])],
    ),
    "handles_again": Verb(
        get_by_handles,
        [*map(value_of, KEYS[:3])],
        helpers=True,
        prepare=forget_routes,
    ),
    "heavy_handle": Verb(
        lambda client: table_of(client).get_many_async([(key, "s") for key in KEYS], timeout=3.0).get(),
        [*map(value_of, KEYS)],
        helpers=True,
    ),
    "scan": Verb(scan, ROWS),
    "hedged_get": Verb(
        get,
        value_of(KEYS[7]),
        prepare=connect_secondaries,
        hedged=True,
    ),
    "hedged_multi_get": Verb(
        lambda client: dict(table_of(client).multi_get("interrupted scan", timeout=3.0)),
        {b"%d" % number: value for number, value in enumerate(ROWS)},
        prepare=connect_secondaries,
        hedged=True,
    ),
    "first_get": Verb(get, value_of(KEYS[7]), helpers=True, fresh=True),
    "route_query": Verb(
        get,
        value_of(KEYS[7]),
        helpers=True,
        prepare=forget_routes,
    ),
    "list_tables": Verb(
        lambda client: [table.name for table in client.admin.list_tables(timeout=3.0)], ["temp"], helpers=True
    ),
    "set_envs": Verb(set_envs, None, helpers=True),
}
PLACES = [
    (verb, place)
    for verb, about in VERBS.items()
    for place in ("caller", "hub", *(["helpers"] if about.helpers else []))
]
# The core leaves little or no Python code of these verbs to the hub. The run without the core interrupts them there.
USUAL = ("usual_get", "usual_set")
IN_CORE = (*USUAL, "observed_get", "observed_set", "get", "set", "scan", "list_tables", "set_envs")
BOTH_MODES = {*((verb, "hub") for verb in IN_CORE), *((verb, "caller") for verb in USUAL)}
# Outcomes are handed over in the hub: there they are interrupted twice, too.
CASES = [
    pytest.param(verb, place, kind, marks=[pytest.mark.both_modes] if (verb, place) in BOTH_MODES else [])
    for verb, place in PLACES
    for kind in ("interrupt", "exception", "nested", *(["twice"] if place == "hub" else []))
]


@pytest.fixture(scope="module")
def interrupted() -> Iterator[Any]:
    # In its own process: in this process the servers would be interrupted, too.
    onebox: Any = Onebox(tables={"temp": 4}, process=True).start()
    with Client(onebox.meta_addresses) as client:
        table = client.table("temp")
        for key in KEYS:
            table.set(key, "s", value_of(key))
        for number, value in enumerate(ROWS):
            table.set("interrupted scan", str(number), value)
    # Secondaries are asked, too.
    onebox.settle()
    hub = gevent.get_hub()
    before = hub.NOT_ERROR
    # They are intended: gevent is not to print each of them.
    hub.NOT_ERROR = (*before, Interrupted, KeyboardInterrupt)
    yield onebox
    hub.NOT_ERROR = before
    onebox.stop()


def interrupt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the next attempt to hand over outcomes, too."""

    def again(*_args: Any) -> None:
        monkeypatch.undo()
        raise Interrupted

    monkeypatch.setattr(Connection, "_hand_again", again)


class Trial:
    """One run of a verb with one interruption.

    Attributes:
        interruption: The interruption.
        wrong: The problems that were found.
    """

    def __init__(self, client: Client, verb: str, kind: str, n: int, place: str) -> None:
        self.client, self.table = client, client.table("temp")
        self.verb = VERBS[verb]
        self.kind = kind
        self.monkeypatch = pytest.MonkeyPatch()
        self.wrong: list[object] = []
        files = (PACKAGE, __file__) if self.verb.observed else (PACKAGE,)
        self.interruption = Interruption(n, self._act, place=place, opcodes=True, files=files)

    def _act(self) -> None:
        if self.kind == "interrupt":
            raise KeyboardInterrupt
        if self.kind == "twice":
            interrupt_again(self.monkeypatch)
        if self.kind in ("exception", "twice"):
            raise Interrupted
        try:
            value = self.table.get(KEYS[5], "s", timeout=3.0)
        except gevent.exceptions.BlockingSwitchOutError:
            return  # what a callback of the event loop gets, and a greenlet that others wait for
        if value != value_of(KEYS[5]):
            self.wrong.append(("nested", value))

    def _victim(self, bystander: Any) -> None:
        try:
            with self.interruption.armed([bystander]):
                value = self.verb.run(self.client)
            if value != self.verb.expected:
                self.wrong.append(("verb", value))
        except (KeyboardInterrupt, Interrupted):
            if self.kind == "nested":
                raise
        except PegasusError as error:
            # A connection with an uncertain state is closed. No call waits for its deadline, unless its timer was
            # interrupted.
            late = isinstance(error, (RequestTimeout, MetaUnreachable)) and self.kind != "twice"
            if self.kind == "nested" or late:
                self.wrong.append(("verb", error.with_traceback(None)))
        except BaseException as error:
            self.wrong.append(("verb", error.with_traceback(None)))

    def _bystander(self) -> None:
        for key in KEYS[:3]:
            try:
                value = self.table.get(key, "s", timeout=3.0)
            except PegasusError as error:
                self.wrong.append(("bystander", key, error.with_traceback(None)))
            else:
                if value != value_of(key):
                    self.wrong.append(("bystander", key, value))

    def run(self) -> None:
        self.verb.prepare(self.client)
        bystander = gevent.spawn(self._bystander)
        greenlets: list[Any] = [gevent.spawn(self._victim, bystander), bystander]
        # An exception in the hub may be raised here, in its parent.
        for _ in range(3):
            try:
                gevent.joinall(greenlets, timeout=20)
                break
            except (KeyboardInterrupt, Interrupted):
                continue
        self.monkeypatch.undo()
        self.wrong += [f"{one!r} hangs" for one in greenlets if not one.dead]
        gevent.killall(greenlets)
        for key in KEYS[:4]:
            value = self.table.get(key, "s", timeout=5.0)
            if value != value_of(key):
                self.wrong.append(("afterwards", key, value))
        self.wrong += at_rest(self.client)
        assert not self.wrong, (self.kind, self.interruption.n, self.interruption.where, self.wrong)


# The compiled core leaves few points of Python to a hub.
FEWEST = 10


class Points:
    """The points of one verb, place and kind.

    Attributes:
        count: How many there are.
        tried: How many were tried.
    """

    def __init__(self, box: Any, verb: str, kind: str, place: str) -> None:
        self.metas, self.verb, self.kind, self.place = box.meta_addresses, verb, kind, place
        self.count = self.tried = 0

    def _client(self) -> Client:
        hedge = HedgePolicy(delay=HEDGE_AFTER, max_ratio=1.0) if VERBS[self.verb].hedged else None
        # Repeated queries do not have to wait.
        client = Client(self.metas, timeout=3.0, refresh_interval=0.001, refresh_period=0.0, hedge=hedge)
        if VERBS[self.verb].observed:
            client.add_listener(Observer())
        return client

    def _trial(self, client: Client, n: int) -> int:
        if not VERBS[self.verb].fresh:
            trial = Trial(client, self.verb, self.kind, n, self.place)
            trial.run()
        else:
            with self._client() as first:
                trial = Trial(first, self.verb, self.kind, n, self.place)
                trial.run()
        return trial.interruption.count

    def enumerate(self, sample: int | None) -> None:
        """Interrupt at a sample of the points, or at all of them."""
        with self._client() as client:
            client.table("temp").warm_up()
            # The first run may do work that later runs do not repeat.
            self._trial(client, 0)
            # On a busy machine the compiled core may have left nothing to Python in a run.
            for _ in range(5):
                self.count = max(self.count, self._trial(client, 0))
                if self.count > FEWEST:
                    break
            points = range(1, self.count + 1)
            chosen = points if sample is None else sorted(random.sample(points, min(sample, self.count)))
            for n in chosen:
                self._trial(client, n)
        self.tried = len(chosen)


@pytest.fixture
def box(request: pytest.FixtureRequest, interrupted: Any) -> Iterator[Any]:
    """Return the cluster, with slow reads for verbs that are hedged."""
    if VERBS[request.getfixturevalue("verb")].hedged:
        interrupted.fault("delay", rpc="read", seconds=SLOW_READ)
    yield interrupted
    interrupted.clear_faults()


@pytest.mark.parametrize(("verb", "place", "kind"), CASES)
def test_an_interruption_at_sampled_steps_leaves_values_correct(box: Any, verb: str, place: str, kind: str) -> None:
    points = Points(box, verb, kind, place)
    sample = SMALL_SAMPLE if VERBS[verb].helpers else SAMPLE
    points.enumerate(sample)
    print(f"{verb}, {place}, {kind}: {points.tried} of {points.count} points")
    if points.count <= FEWEST and accelerated and place == "hub" and verb in IN_CORE:
        pytest.skip("the compiled core leaves no Python code to the hub: the run without the core has these points")
    assert points.count > FEWEST
    assert points.tried == sample


@pytest.mark.soak
@pytest.mark.watchdog(3600)
@pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="every point takes minutes: make soak")
@pytest.mark.parametrize(("verb", "place", "kind"), CASES)
def test_an_interruption_at_every_step_leaves_values_correct(box: Any, verb: str, place: str, kind: str) -> None:
    points = Points(box, verb, kind, place)
    points.enumerate(None)
    print(f"{verb}, {place}, {kind}: {points.count} points")


# ------------------------------------------------------------------------------------------- scans continue afterwards
SCANS: dict[str, Callable[[Table[bytes]], Any]] = {
    "hash_scan": lambda table: table.hash_scan("interrupted scan", batch_size=2, timeout=3.0),
    "scan": lambda table: table.scan(batch_size=3, timeout=3.0),
    "parallel": lambda table: table.scan(batch_size=3, parallel=3, timeout=3.0),
    "limit": lambda table: table.hash_scan("interrupted scan", batch_size=2, limit=3, timeout=3.0),
    # A function of Python converts the rows.
    "with_ttl": lambda table: table.hash_scan("interrupted scan", batch_size=2, with_ttl=True, timeout=3.0),
}


def rows_of_an_interrupted_scan(
    client: Client, scan: str, place: str, n: int, kind: str = "exception", within: tuple[str, ...] = ()
) -> tuple[Interruption, list[Any]]:
    """Return the rows of one scanner whose reader continues after something has struck at the n-th step.

    This is an exception, a nested ``next``, or another call, during which the other greenlets of the scan run.
    """

    def act() -> None:
        if kind == "exception":
            raise Interrupted
        if kind == "other call":
            client.table("temp").exist("interrupted scan", "0")
            gevent.sleep(0.003)
            return
        try:
            found.append(tuple(next(rows)))
        except StopIteration:
            pass
        except RuntimeError as error:
            assert "cannot use a scanner whose next() it has interrupted" in str(error)  # noqa: PT017

    interruption, found = Interruption(n, act, place=place, opcodes=True, within=within), []
    rows = SCANS[scan](client.table("temp"))

    def read() -> None:
        with interruption.armed():
            while True:
                try:
                    for row in rows:
                        found.append(tuple(row))  # noqa: PERF401 - the rows before an exception count
                except Interrupted:
                    continue
                break

    reader: Any = gevent.spawn(read)
    reader.join(20.0)
    assert reader.dead, (interruption.n, interruption.where)
    reader.get()
    return interruption, sorted(found)


@pytest.mark.parametrize(
    ("scan", "place", "kind"),
    [
        *((scan, "caller", kind) for scan in SCANS for kind in ("exception", "nested")),
        ("parallel", "caller", "other call"),
        ("parallel", "helpers", "exception"),
        ("parallel", "helpers", "other call"),
        ("parallel", "hub", "exception"),
    ],
)
def test_a_scan_continues_after_an_interruption_at_any_step(interrupted: Any, scan: str, place: str, kind: str) -> None:
    """The same scanner returns all other rows exactly once. Only a row on its way out of ``next`` can be lost."""
    with Client(interrupted.meta_addresses, timeout=3.0, refresh_interval=0.001, refresh_period=0.0) as client:
        client.table("temp").warm_up()
        # The first run may find something to do that the others do not.
        rows_of_an_interrupted_scan(client, scan, place, 0)
        counted, expected = rows_of_an_interrupted_scan(client, scan, place, 0)
        assert counted.count > 30
        # The last steps raise StopIteration: the interruption is at a step that handles another exception.
        points = {*random.sample(range(1, counted.count + 1), min(INTERRUPTED_SCANS, counted.count))}
        points.update(range(max(counted.count - LAST_STEPS, 1), counted.count + 1))
        for n in sorted(points):
            interruption, found = rows_of_an_interrupted_scan(client, scan, place, n, kind)
            if kind != "exception" or not interruption.where.endswith(" __next__"):
                assert found == expected, (n, interruption.where)
        assert not at_rest(client)


def test_a_parallel_scan_returns_the_batch_of_a_greenlet_that_ends_during_another_call(interrupted: Any) -> None:
    """The greenlet ends while the caller asks whether one still runs, at every step of this."""
    with Client(interrupted.meta_addresses, timeout=3.0, refresh_interval=0.001, refresh_period=0.0) as client:
        client.table("temp").warm_up()

        def work(n: int) -> tuple[Interruption, list[Any]]:
            return rows_of_an_interrupted_scan(client, "parallel", "caller", n, "other call", ("_staff",))

        counted, expected = work(0)
        for n in range(1, counted.count + 1):
            interruption, found = work(n)
            assert found == expected, (n, interruption.where)
