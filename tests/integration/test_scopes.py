"""Test which calls client.deadline() bounds: in generators, context managers, other greenlets, threads, finalizers."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest

from pegasus_green import Client, errors

pytestmark = pytest.mark.onebox_only

FAR = 50.0


def bound(client: Client) -> float | None:
    """Return the seconds that an open scope leaves to a call made here, or None without a scope."""
    cluster = client._cluster
    now = monotonic()
    deadline = cluster.deadline(FAR, now)
    return None if deadline == now + FAR else deadline - now


def bounds(client: Client, seconds: float) -> Iterator[float | None]:
    with client.deadline(seconds):
        while True:
            yield bound(client)


@pytest.fixture(autouse=True)
def _nothing_is_left(client: Client) -> Iterator[None]:
    yield
    gc.collect()
    scopes = client._cluster.scopes
    assert (dict(scopes), scopes.greenlets, scopes.frames) == ({}, {}, {})


def test_an_expired_generator_refuses_its_own_calls_only(client: Client, hash_key: bytes) -> None:
    table = client.table("temp")
    table.set(hash_key, "s", "v")

    def values() -> Iterator[bytes | None]:
        with client.deadline(0.6):
            while True:
                yield table.get(hash_key, "s")

    rows = values()
    assert next(rows) == b"v"
    gevent.sleep(0.7)
    assert table.get(hash_key, "s") == b"v"
    with pytest.raises(errors.RequestTimeout):
        next(rows)


def test_a_generator_bounds_its_own_calls_and_not_its_consumer(client: Client) -> None:
    rows = bounds(client, 5)
    assert bound(client) is None
    assert 4 < (next(rows) or 0) <= 5
    assert bound(client) is None
    rows.close()  # type: ignore[attr-defined]
    assert bound(client) is None


def test_functions_and_generators_called_in_the_block_are_bounded(client: Client) -> None:
    def inner() -> Iterator[float | None]:
        yield bound(client)

    def outer() -> Iterator[list[float | None]]:
        with client.deadline(5):
            yield [bound(client), *inner(), *(bound(client) for _ in range(1)), next(inner())]
            yield from ([value] for value in inner())

    for found in outer():
        assert all(value is not None for value in found)


def test_the_consumer_is_not_bounded_by_a_generator_in_yield_from(client: Client) -> None:
    def outer() -> Iterator[Any]:
        yield bound(client)
        yield from bounds(client, 5)

    rows = outer()
    assert next(rows) is None
    assert next(rows) is not None
    assert bound(client) is None


def test_nested_bounds_take_the_minimum_wherever_they_come_from(client: Client) -> None:
    rows = bounds(client, 5)
    with client.deadline(2):
        assert (next(rows) or 0) <= 2
    # The generator keeps only its own bound.
    assert 4 < (next(rows) or 0) <= 5
    with client.deadline(20), client.deadline(30):
        assert (next(rows) or 0) <= 5
        assert 19 < (bound(client) or 0) <= 20


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("generators", [True, False])
def test_scopes_are_left_in_any_order(client: Client, order: tuple[int, ...], generators: bool) -> None:
    seconds = [3, 6, 9]
    leave: list[Callable[[], object]] = []
    for time in seconds:
        if generators:
            rows = bounds(client, time)
            next(rows)
            leave.append(rows.close)  # type: ignore[attr-defined]
        else:
            stack = contextlib.ExitStack()
            stack.enter_context(client.deadline(time))
            leave.append(stack.close)
    open_now = set(range(3))
    for index in order:
        left = bound(client)
        if generators:
            assert left is None
        else:
            wanted = min(seconds[at] for at in open_now)
            assert wanted - 1 < (left or 0) <= wanted
        leave[index]()
        open_now.discard(index)
    assert bound(client) is None


def throw(error: BaseException, rows: Any) -> None:
    with pytest.raises(type(error)):
        rows.throw(error)


ENDINGS: dict[str, Callable[[Any], object]] = {
    "close": lambda rows: rows.close(),
    "throw": lambda rows: throw(KeyError(), rows),
    "exit": lambda rows: throw(gevent.GreenletExit(), rows),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_generator_may_be_ended_in_another_greenlet(client: Client, ending: str, elsewhere: bool) -> None:
    rows = bounds(client, 5)
    next(rows)
    with client.deadline(9):
        if elsewhere:
            gevent.spawn(ENDINGS[ending], rows).get()
        else:
            ENDINGS[ending](rows)
        assert 8 < (bound(client) or 0) <= 9


def test_a_generator_continued_in_another_greenlet_keeps_its_bound(client: Client) -> None:
    rows = bounds(client, 5)
    next(rows)

    def go_on() -> tuple[float | None, float | None]:
        return next(rows), bound(client)

    inside, outside = gevent.spawn(go_on).get()
    assert inside is not None
    assert outside is None
    assert bound(client) is None


def test_a_generator_that_is_the_first_frame_of_a_greenlet(client: Client) -> None:
    def three() -> Iterator[float | None]:
        with client.deadline(5):
            for _ in range(3):
                yield bound(client)

    assert all(value is not None for value in gevent.spawn(list, three()).get())


def test_a_scope_may_be_entered_in_one_greenlet_and_left_in_another(client: Client) -> None:
    scope = client.deadline(5)

    def enter() -> float | None:
        scope.__enter__()
        return bound(client)

    assert gevent.spawn(enter).get() is not None
    # A later greenlet may get the id of an ended one.
    assert {gevent.spawn(bound, client).get() for _ in range(50)} == {None}
    assert bound(client) is None
    gevent.spawn(scope.__exit__, None, None, None).get()


def test_a_scope_that_is_entered_by_hand_bounds_its_greenlet_until_it_ends(client: Client) -> None:
    """Hooks of web frameworks that run before and after a request use it so."""
    scope = client.deadline(5)

    def before_request() -> None:
        scope.__enter__()

    before_request()
    assert 4 < (bound(client) or 0) <= 5
    assert gevent.spawn(bound, client).get() is None
    scope.__exit__(None, None, None)
    assert bound(client) is None


def test_a_greenlet_that_is_started_inside_is_not_bounded(client: Client) -> None:
    with client.deadline(5):
        assert gevent.spawn(bound, client).get() is None
        assert gevent.get_hub().threadpool.apply(bound, (client,)) is None


def test_copies_of_the_context_carry_no_bound(client: Client) -> None:
    with client.deadline(5):
        context = contextvars.copy_context()
        assert context.run(bound, client) is not None
        assert gevent.spawn(context.run, bound, client).get() is None
    assert context.run(bound, client) is None


@contextlib.contextmanager
def request_scope(client: Client, seconds: float) -> Iterator[None]:
    with client.deadline(seconds):
        yield


class Bounded:
    """A context manager that has a scope of its own."""

    def __init__(self, client: Client) -> None:
        self.stack = contextlib.ExitStack()
        self.client = client

    def __enter__(self) -> None:
        self.stack.enter_context(request_scope(self.client, 5))

    def __exit__(self, *_error: object) -> None:
        self.stack.close()


@pytest.mark.parametrize("kind", ["function", "class", "stack"])
def test_a_context_manager_passes_the_bound_on_to_its_block(client: Client, kind: str) -> None:
    def enter() -> contextlib.AbstractContextManager[Any]:
        if kind == "function":
            return request_scope(client, 5)
        if kind == "class":
            return Bounded(client)
        return contextlib.ExitStack()

    def rows() -> Iterator[float | None]:
        with enter() as entered:
            if isinstance(entered, contextlib.ExitStack):
                entered.enter_context(request_scope(client, 5))
            while True:
                yield bound(client)

    with enter() as entered:
        if isinstance(entered, contextlib.ExitStack):
            entered.enter_context(client.deadline(5))
        assert bound(client) is not None
    assert bound(client) is None
    generator = rows()
    assert next(generator) is not None
    assert bound(client) is None


def test_an_abandoned_generator_is_collected_with_its_scope(client: Client) -> None:
    class Reader:
        def __init__(self) -> None:
            self.rows = self.read()
            next(self.rows)

        def read(self) -> Iterator[Any]:
            with client.deadline(5):
                while True:
                    yield self

    reader = weakref.ref(Reader())
    assert len(client._cluster.scopes) == 1
    gevent.spawn(gc.collect).get()
    assert reader() is None
    assert not client._cluster.scopes


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_generator_that_yields_during_close_leaves_no_bound(client: Client) -> None:
    """Python deletes such a generator without running the rest of it."""

    def stubborn() -> Iterator[None]:
        with client.deadline(5):
            while True:
                with contextlib.suppress(GeneratorExit):
                    yield

    rows = stubborn()
    next(rows)
    with pytest.raises(RuntimeError):
        rows.close()  # type: ignore[attr-defined]
    del rows


def test_a_scope_is_entered_once_at_a_time(client: Client) -> None:
    scope = client.deadline(5)
    with scope, pytest.raises(RuntimeError, match=r"client\.deadline\(\)"):
        scope.__enter__()
    with scope:
        assert bound(client) is not None
    assert bound(client) is None


def test_a_finalizer_that_leaves_a_scope_while_another_is_entered(client: Client) -> None:
    """A finalizer may run between any two steps; here it runs in every dict access of the scopes."""
    places = client._cluster.scopes.greenlets
    victims = [client.deadline(7)]

    class Places(dict[int, Any]):
        def setdefault(self, key: int, default: Any) -> Any:  # type: ignore[override]
            found = super().setdefault(key, default)
            for victim in victims:
                victim.__exit__(None, None, None)
            victims.clear()
            return found

    client._cluster.scopes.greenlets = Places(places)
    try:
        victims[0].__enter__()
        with client.deadline(5):
            assert 4 < (bound(client) or 0) <= 5
    finally:
        client._cluster.scopes.greenlets = {}
