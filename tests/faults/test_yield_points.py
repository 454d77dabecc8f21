"""Test that a caller killed or timed out at any point affects no other caller. ``switches`` enumerates the points."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent
import pytest

from pegasus_green import Client, HedgePolicy, Listener, PegasusError, RequestTimeout, RetryPolicy, Table, errors
from pegasus_green.accelerate import accelerated
from pegasus_green.onebox import Onebox
from tests.faults.operations import OPERATIONS, ROWS, Operation, Scene
from tests.faults.switches import THROWN, AtStep, AtSwitch, Injection, inject
from tests.faults.tools import Ended, at_rest

pytestmark = [pytest.mark.onebox_only]

Kind = TypeVar("Kind", AtSwitch, AtStep)
BYSTANDERS = 3
# The largest number of switches of any operation.
MOST = 400


@pytest.fixture(scope="module")
def marked(onebox: Any) -> tuple[Any, bytes]:
    """Return the cluster with the rows of one hash key in it, and those of the bystanders."""
    mark = b"victim of the yield points"
    with Client(onebox.meta_addresses) as client:
        table = client.table("temp")
        for sort_key, value in ROWS.items():
            table.set(mark, sort_key, value)
        for number in range(BYSTANDERS):
            table.set(b"bystander %d" % number, b"", b"value %d" % number)
    return onebox, mark


def _bystanders(table: Table) -> Callable[[], Callable[[], None]]:
    """Return a function that starts callers with the needs of the victim and returns a check of their results."""

    def begin() -> Callable[[], None]:
        calls = [Ended(table.get, b"bystander %d" % number) for number in range(BYSTANDERS)]

        def check() -> None:
            for number, call in enumerate(calls):
                assert call.join().error is None, f"a bystander got {call.error!r}"
                assert call.value == b"value %d" % number

        return check

    return begin


def _try_once(client: Client, mark: bytes, operation: Operation, injection: Injection, faulty: bool = False) -> None:
    """Run an operation under an injection and check that no other call was affected."""
    scene = Scene(client, client.table("temp"), mark)

    def go_on() -> tuple[Any, Any]:
        # A late reply of an abandoned call must not wake a greenlet that now waits for something else.
        gevent.sleep(0.001)
        return scene.table.get(mark, b"b"), scene.table.get(mark, b"c")

    outcome = inject(injection, lambda: operation.run(scene), _bystanders(scene.table), go_on)
    where = f"{operation.verb}, switch {injection.k}"
    assert outcome.afterwards == (b"2", b"3"), f"{where}: {outcome.afterwards}"
    if injection.fired:
        assert outcome.error is injection.error, f"{where}: {outcome.error!r} instead of what was thrown"
    elif isinstance(outcome.error, PegasusError) and faulty:
        assert outcome.error.outcome_unknown, f"{where}: {outcome.error!r}"
    elif outcome.error is not None:
        raise outcome.error
    elif operation.expected is not None:
        assert outcome.value == operation.expected, where
    left = at_rest(client)
    assert not left, f"{where}: {left}"


@contextmanager
def _refusals(box: Any, mark: bytes, operation: Operation) -> Iterator[None]:
    """Refuse the operation's first two requests: a refresh with its wait, then a pause."""
    contains = mark if operation.marked else None
    errors = ("ERR_OBJECT_NOT_FOUND", "ERR_BUSY")
    rules = [
        box.fault("error", error=error, rpc=operation.rpc, contains=contains, count=1, after=0) for error in errors
    ]
    try:
        yield
    finally:
        for rule in rules:
            rule.remove()


@contextmanager
def _cut(box: Any, mark: bytes, operation: Operation) -> Iterator[None]:
    """End the connection when the operation's first request was executed."""
    rule = box.fault("cut", when="after", rpc=operation.rpc, contains=mark if operation.marked else None, count=1)
    try:
        yield
    finally:
        rule.remove()


def _options(**more: Any) -> dict[str, Any]:
    # Short pauses, since each of some hundred points of an operation is a separate run.
    return {"timeout": 5.0, "refresh_interval": 0.002, "retry": RetryPolicy(base=0.001, cap=0.01), **more}


def _drop_made(box: Any, operation: Operation) -> None:
    if operation.verb == "admin.create_table" and box.tables.find("made") is not None:
        box.drop_table("made")


def _enumerate(kind: type[Kind], run: Callable[[Kind], None], throw: Callable[[], BaseException], step: int = 1) -> int:
    """Run with k = 1, 2, ... until the operation ends before its k-th point; return the number of points."""
    for k in itertools.count(1, step):
        assert k < MOST
        injection = kind(k, throw())
        run(injection)
        if not injection.fired:
            return k - 1
    raise AssertionError


def _cold(box: Any, mark: bytes, operation: Operation, injection: Injection) -> None:
    _drop_made(box, operation)
    with Client(box.meta_addresses, **_options()) as client:
        _try_once(client, mark, operation, injection)


@pytest.mark.both_modes
@pytest.mark.parametrize("thrown", THROWN)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.verb)
def test_a_call_killed_at_any_switch_harms_no_other_call(
    marked: tuple[Any, bytes], operation: Operation, thrown: str
) -> None:
    """The client is warm or cold, its first requests are refused, or its connection is cut."""
    box, mark = marked
    points = {}
    with Client(box.meta_addresses, **_options()) as client:
        client.table("temp").warm_up()

        def warm(injection: AtSwitch) -> None:
            _drop_made(box, operation)
            _try_once(client, mark, operation, injection)

        def refused(injection: AtSwitch) -> None:
            with _refusals(box, mark, operation):
                _try_once(client, mark, operation, injection)

        def cut(injection: AtSwitch) -> None:
            with _cut(box, mark, operation):
                _try_once(client, mark, operation, injection, faulty=True)

        points["warm"] = _enumerate(AtSwitch, warm, THROWN[thrown])
        if operation.rpc is not None:
            points["refused"] = _enumerate(AtSwitch, refused, THROWN[thrown])
            points["cut"] = _enumerate(AtSwitch, cut, THROWN[thrown])
    points["cold"] = _enumerate(AtSwitch, lambda at: _cold(box, mark, operation, at), THROWN[thrown])
    print(operation.verb, points)
    if accelerated:
        # AtSwitch does not see the switches of the compiled core. The patched lane runs without the core.
        return
    assert all(points.values()) or operation.verb == "warm_up", points
    if operation.verb == "get":
        # Switches: reply; reply, new routes, reply, pause, reply; routes, dial, reply.
        assert (points["warm"], points["refused"], points["cold"]) >= (1, 5, 3), points


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.verb)
def test_a_call_killed_at_any_step_of_a_query_or_dial_harms_no_other_call(
    marked: tuple[Any, bytes], operation: Operation
) -> None:
    """The call is killed while its route query and its dials are at each of their steps."""
    box, mark = marked
    kinds = itertools.cycle(THROWN.values())

    def throw() -> BaseException:
        return next(kinds)()

    steps = _enumerate(AtStep, lambda at: _cold(box, mark, operation, at), throw, step=2)
    print(operation.verb, steps)
    assert steps >= 4


@pytest.mark.parametrize("thrown", THROWN)
@pytest.mark.parametrize("verb", ["get", "set", "incr", "get_many", "set_async"])
def test_a_call_killed_while_it_waits_for_room_harms_no_other_call(verb: str, thrown: str) -> None:
    """The connection is full. No other waiting call may lose its place."""
    operation = next(operation for operation in OPERATIONS if operation.verb == verb)
    mark = b"victim in a crowd"
    with Onebox(replicas=1) as box, Client(box.meta_addresses, **_options(max_in_flight=2)) as client:
        table = client.table("temp")
        for number in range(BYSTANDERS):
            table.set(b"bystander %d" % number, b"", b"value %d" % number)
        for sort_key, value in ROWS.items():
            table.set(mark, sort_key, value)
        box.fault("delay", rpc="get", contains="occupant", seconds=0.01)

        def crowded(injection: AtSwitch) -> None:
            occupants = [Ended(table.get, b"occupant") for _ in range(2)]
            gevent.sleep(0)
            _try_once(client, mark, operation, injection)
            assert [call.join().error for call in occupants] == [None, None]

        points = _enumerate(AtSwitch, crowded, THROWN[thrown])
        assert points >= 2 or verb.endswith("async")


class _Failing(Listener):
    """A listener with a bug."""

    def call_finished(self, *_facts: Any) -> None:
        raise ValueError("a bug of the application")


@pytest.mark.parametrize("thrown", THROWN)
@pytest.mark.parametrize("way", ["hedged", "observed", "header v0", "without retries"])
def test_hedged_observed_and_unrepeated_calls_can_be_killed_at_any_switch(
    marked: tuple[Any, bytes], way: str, thrown: str
) -> None:
    """These calls use other code paths of the client: two servers, a listener, no repetitions."""
    box, mark = marked
    options: Any = {
        "hedged": {"hedge": HedgePolicy(delay=0.001, max_ratio=1.0)},
        "header v0": {"header_version": 0},
        "without retries": {"retry": None},
    }.get(way, {})
    rule = box.fault("delay", rpc="read", contains=mark, seconds=0.004)
    try:
        with Client(box.meta_addresses, **_options(**options)) as client:
            if way == "observed":
                client.add_listener(_Failing())
            table = client.table("temp")
            table.warm_up()
            if way == "hedged":
                # Secondaries are connected on the first read that needs them.
                for _ in range(3):
                    table.get(mark, b"a")
            for verb in ("get", "ttl", "incr", "get_many", "get_async"):
                operation = next(operation for operation in OPERATIONS if operation.verb == verb)

                def run(injection: AtSwitch, operation: Operation = operation) -> None:
                    _try_once(client, mark, operation, injection)

                points = _enumerate(AtSwitch, run, THROWN[thrown])
                # AtSwitch does not see the switches of the compiled core; AtStep does.
                assert accelerated or points >= 1 + (way == "hedged" and verb in ("get", "ttl")), (verb, points)
    finally:
        rule.remove()


@pytest.mark.both_modes
@pytest.mark.parametrize("thrown", THROWN)
def test_close_killed_while_it_drains_can_be_called_again(marked: tuple[Any, bytes], thrown: str) -> None:
    """close(drain) is killed at each of its switches; the calls end, and a second close ends the client."""
    box, mark = marked
    rule = box.fault("delay", rpc="get", contains=mark, seconds=0.02)

    def drain(injection: AtSwitch) -> None:
        client = Client(box.meta_addresses, **_options())
        table = client.table("temp")
        table.warm_up()
        calls = [Ended(table.get, mark, key) for key in ROWS]
        gevent.sleep(0)
        outcome = inject(injection, lambda: client.close(drain=10.0), lambda: lambda: None, lambda: None)
        assert outcome.error is (injection.error if injection.fired else None)
        if injection.k % 2:
            client.close()
        for call, value in zip(calls, ROWS.values()):
            error = call.join().error
            assert call.value == value if error is None else isinstance(error, errors.ClientClosed)
            assert error is None or injection.k % 2
        client.close()
        assert not at_rest(client)
        with pytest.raises(errors.ClientClosed):
            table.get(mark)

    try:
        assert _enumerate(AtSwitch, drain, THROWN[thrown]) >= 2
    finally:
        rule.remove()


def test_every_public_verb_is_among_the_tested_operations() -> None:
    """Every operation of the public API is killed by the tests above."""
    verbs = {operation.verb.split(" ")[0] for operation in OPERATIONS}
    public = {name for name in dir(Table) if not name.startswith("_") and callable(getattr(Table, name))}
    # An async variant runs its verb in a greenlet. The others send nothing, or what the verbs above send.
    twins = {name for name in public if name.endswith("_async") and name.removesuffix("_async") in public}
    others = {"client", "name", "codec", "close", "partition_of", "truncate", "multi_set_many", "multi_remove_many"}
    missing = public - verbs - twins - others
    assert not missing, sorted(missing)


@pytest.mark.both_modes
def test_errors_are_exceptions_and_foreign_timeouts_are_raised_unchanged(marked: tuple[Any, bytes]) -> None:
    """The client raises Exceptions at its own deadlines and passes a Timeout of the application through."""
    box, mark = marked
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)]
    assert kinds
    assert not [kind for kind in kinds if not issubclass(kind, PegasusError)]
    assert issubclass(PegasusError, Exception)
    assert not [kind for kind in kinds if issubclass(kind, (gevent.Timeout, gevent.GreenletExit))]
    rule = box.fault("drop", rpc="get", contains=mark)
    try:
        with Client(box.meta_addresses) as client:
            table = client.table("temp")
            table.warm_up()
            with gevent.Timeout(5.0) as outer, pytest.raises(RequestTimeout):
                table.get(mark, b"a", timeout=0.05)
            assert not outer.pending
            with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as mine:
                table.get(mark, b"a", timeout=5.0)
            assert caught.value is mine
            assert not at_rest(client)
    finally:
        rule.remove()
