"""At every switch of a first call that has to authenticate: the caller is killed or timed out, or the client closed.

The switches are those of all greenlets, so the credentials, the dial and each message of the negotiation are at a
different point each time.
"""

from __future__ import annotations

from typing import Any

import gevent
import greenlet
import pytest

from pegasus_green import Client, ClientClosed
from tests.faults.switches import THROWN, AtStep, inject
from tests.faults.tools import at_rest
from tests.transport.fakes import Stage
from tests.transport.secured import FakeAuth, Sasl, secure_stage
from tests.waiting import wait_until

MOST = 2000


@pytest.fixture
def secured(stage: Stage) -> Sasl:
    """Let meta and replica servers demand authentication."""
    return secure_stage(stage)


@pytest.mark.parametrize("thrown", THROWN)
def test_a_caller_killed_at_any_switch_of_the_negotiation(stage: Stage, secured: Sasl, thrown: str) -> None:
    for k in range(1, MOST):
        auth = FakeAuth(seconds=3600.0)
        with Client([stage.meta.address], auth=auth, timeout=10.0, refresh_period=0.0) as client:
            table = client.table("temp")
            injection = AtStep(k, THROWN[thrown]())

            def bystanders(table: Any = table) -> Any:
                others = [gevent.spawn(table.get, "h", str(number)) for number in range(3)]
                return lambda: gevent.joinall(others, raise_error=True)

            def call(table: Any = table) -> Any:
                return table.get("h", "s")

            outcome = inject(injection, call, bystanders, call)
            assert outcome.afterwards is None
            assert outcome.error is (injection.error if injection.fired else None)
            assert (auth.acquired, client.stats()["auth"]["negotiated"]) == (1, 2)
            assert not at_rest(client)
        if not injection.fired:
            break
    else:
        raise AssertionError("no end")
    assert k > 70, "the points of a negotiation were not met"
    assert secured.broken == []


class CloseAt:
    """Closes a client at the k-th switch of any greenlet."""

    def __init__(self, client: Client, k: int) -> None:
        self.client, self.k = client, k
        self.count = 0
        self.fired = False

    def __enter__(self) -> CloseAt:  # noqa: PYI034 - Self is not in Python 3.10
        self._before = greenlet.settrace(self._trace)
        return self

    def __exit__(self, *_error: object) -> None:
        greenlet.settrace(self._before)

    def _trace(self, _event: str, _args: Any) -> None:
        self.count += 1
        if self.count == self.k:
            self.fired = True
            gevent.get_hub().loop.run_callback(self.client.close)


def test_a_client_closed_at_any_switch_of_the_negotiation(stage: Stage, secured: Sasl) -> None:
    for k in range(1, MOST):
        client = Client([stage.meta.address], auth=FakeAuth(seconds=3600.0), timeout=10.0, refresh_period=0.0)
        errors: list[Any] = []

        def call(at: Client = client, errors: list[Any] = errors) -> None:
            try:
                at.table("temp").get("h", "s")
            except ClientClosed as error:
                errors.append(error)

        with CloseAt(client, k) as closing:
            callers = [gevent.spawn(call) for _ in range(3)]
            gevent.joinall(callers, timeout=5.0)
        assert all(caller.dead and caller.exception is None for caller in callers), k
        client.close()
        wait_until(lambda: all(link.closed for link in (*stage.meta.links, *stage.servers[0].links)))
        if not closing.fired:
            assert errors == []
            break
    else:
        raise AssertionError("no end")
    assert k > 70, "the points of a negotiation were not met"
