"""Nothing that comes between two steps of a call gives anybody a wrong value or leaves anything behind.

Each verb is run again and again. In the n-th run something is done at the n-th opcode that runs inside the package: an
exception is raised, or a nested call is made. Then every value is compared, in a greenlet beside it and afterwards.
``make test`` takes a sample that differs from run to run, ``make soak`` every point.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import Client, PegasusError, Table
from pegasus_green.onebox import Onebox
from tests.faults.strikes import Strike, Struck
from tests.faults.tools import at_rest

pytestmark = [pytest.mark.onebox_only]

KEYS = [f"struck {number}" for number in range(8)]
ROWS = [b"row %d" % number for number in range(5)]
# Points of one verb, place and kind in a run of `make test`.
SAMPLE = 12


def value_of(key: str) -> bytes:
    return b"value of " + key.encode()


def scan(table: Table[bytes]) -> list[bytes]:
    return [value for _, value in table.hash_scan("struck scan", batch_size=2, timeout=3.0)]


VERBS: dict[str, tuple[Callable[[Table[bytes]], Any], Any]] = {
    "get": (lambda table: table.get(KEYS[7], "s", timeout=3.0), value_of(KEYS[7])),
    "set": (lambda table: table.set(KEYS[7], "s", value_of(KEYS[7]), timeout=3.0), None),
    "get_many": (lambda table: table.get_many([(key, "s") for key in KEYS], timeout=3.0), [*map(value_of, KEYS)]),
    "handles": (
        lambda table: [one.get() for one in [table.get_async(key, "s", timeout=3.0) for key in KEYS[:3]]],
        [*map(value_of, KEYS[:3])],
    ),
    "scan": (scan, ROWS),
}


@pytest.fixture(scope="module")
def struck() -> Iterator[Any]:
    # In a process of its own: in this one its servers would be struck, too.
    onebox: Any = Onebox(tables={"temp": 4}, process=True).start()
    with Client(onebox.meta_addresses) as client:
        table = client.table("temp")
        for key in KEYS:
            table.set(key, "s", value_of(key))
        for number, value in enumerate(ROWS):
            table.set("struck scan", str(number), value)
    hub = gevent.get_hub()
    before = hub.NOT_ERROR
    # They are meant: gevent is not to print each of them.
    hub.NOT_ERROR = (*before, Struck, KeyboardInterrupt)
    yield onebox
    hub.NOT_ERROR = before
    onebox.stop()


class Trial:
    """One run of a verb with one strike.

    Attributes:
        strike: The strike.
        wrong: What was not as it should be.
    """

    def __init__(self, client: Client, verb: str, kind: str, n: int, *, in_hub: bool) -> None:
        self.client, self.table = client, client.table("temp")
        self.run_verb, self.expected = VERBS[verb]
        self.kind = kind
        self.wrong: list[object] = []
        self.strike = Strike(n, self._act, in_hub=in_hub, opcodes=True)

    def _act(self) -> None:
        if self.kind == "interrupt":
            raise KeyboardInterrupt
        if self.kind == "exception":
            raise Struck
        try:
            value = self.table.get(KEYS[5], "s", timeout=3.0)
        except gevent.exceptions.BlockingSwitchOutError:
            return  # what a callback of the event loop gets
        if value != value_of(KEYS[5]):
            self.wrong.append(("nested", value))

    def _victim(self) -> None:
        try:
            with self.strike.armed():
                value = self.run_verb(self.table)
            if value != self.expected:
                self.wrong.append(("verb", value))
        except (KeyboardInterrupt, Struck):
            if self.kind == "nested":
                raise
        except PegasusError as error:
            # A connection whose books are in doubt ends.
            if self.kind == "nested":
                self.wrong.append(("verb", error.with_traceback(None)))

    def _bystander(self) -> None:
        for key in KEYS[:3]:
            value = self.table.get(key, "s", timeout=3.0)
            if value != value_of(key):
                self.wrong.append(("bystander", key, value))

    def run(self) -> None:
        greenlets = [gevent.spawn(self._victim), gevent.spawn(self._bystander)]
        # What is raised in the hub may come out here, in its parent.
        for _ in range(3):
            try:
                gevent.joinall(greenlets, timeout=20)
                break
            except (KeyboardInterrupt, Struck):
                continue
        self.wrong += [f"{one!r} hangs" for one in greenlets if not one.dead]
        gevent.killall(greenlets)
        for key in KEYS[:4]:
            value = self.table.get(key, "s", timeout=5.0)
            if value != value_of(key):
                self.wrong.append(("afterwards", key, value))
        self.wrong += at_rest(self.client)
        assert not self.wrong, (self.kind, self.strike.n, self.strike.where, self.wrong)


def enumerate_points(box: Any, verb: str, kind: str, *, in_hub: bool, sample: int | None) -> tuple[int, int]:
    """Run a verb with a strike at its points; return how many there are and how many were tried."""
    with Client(box.meta_addresses, timeout=3.0) as client:
        client.table("temp").warm_up()
        counting = Trial(client, verb, kind, 0, in_hub=in_hub)
        counting.run()
        count = counting.strike.count
        points = range(1, count + 1)
        chosen = list(points) if sample is None else sorted(random.sample(points, min(sample, count)))
        for n in chosen:
            Trial(client, verb, kind, n, in_hub=in_hub).run()
    return count, len(chosen)


@pytest.mark.parametrize("kind", ["interrupt", "exception", "nested"])
@pytest.mark.parametrize("place", ["caller", "hub"])
@pytest.mark.parametrize("verb", VERBS)
def test_between_any_two_steps(struck: Any, verb: str, place: str, kind: str) -> None:
    count, tried = enumerate_points(struck, verb, kind, in_hub=place == "hub", sample=SAMPLE)
    print(f"{verb}, {place}, {kind}: {tried} of {count} points")
    assert count > 100
    assert tried == SAMPLE


@pytest.mark.soak
@pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="every point takes minutes: make soak")
@pytest.mark.parametrize("kind", ["interrupt", "exception", "nested"])
@pytest.mark.parametrize("place", ["caller", "hub"])
@pytest.mark.parametrize("verb", VERBS)
def test_between_all_steps(struck: Any, verb: str, place: str, kind: str) -> None:
    print(verb, place, kind, enumerate_points(struck, verb, kind, in_hub=place == "hub", sample=None))
