"""Test authentication in several native threads: shared credentials, a negotiation for each connection."""

from __future__ import annotations

import os
from typing import Any

import gevent
import pytest
from gevent.threadpool import ThreadPool

from pegasus_green import AuthenticationFailed, Client
from tests.leaks import descriptors
from tests.transport.fakes import Stage
from tests.transport.secured import FakeAuth, Sasl, secure_stage
from tests.transport.test_threads import in_thread
from tests.waiting import wait_until


@pytest.fixture
def secured(stage: Stage) -> Sasl:
    """Let meta and replica servers demand authentication."""
    return secure_stage(stage)


def client_of(stage: Stage, auth: FakeAuth, **options: Any) -> Client:
    return Client([stage.meta.address], auth=auth, timeout=10.0, refresh_period=0.0, **options)


def test_threads_share_one_acquisition(stage: Stage, secured: Sasl) -> None:
    """The mechanism is slow, so all threads wait for the credentials that the first one acquires."""
    from time import sleep

    auth = FakeAuth(seconds=3600.0, work=lambda: sleep(0.1))
    with client_of(stage, auth) as client:
        pool = ThreadPool(4)
        try:
            # Unlike gets, these do not wait until the first thread has the routes.
            for job in [pool.spawn(client.ping) for _ in range(4)]:
                job.get(timeout=20)
            figures = client.stats()["auth"]
        finally:
            pool.kill()
        assert (auth.acquired, auth.at_once) == (1, 1)
        assert (figures["acquired"], figures["renewals"]) == (1, 0)
        assert figures["negotiated"] == 4
        assert 3500 < figures["ends_in"] <= 3600
        # The counts of an ended thread are kept.
        wait_until(lambda: len(client._threads.all) == 1)
        assert client.stats()["auth"]["negotiated"] >= figures["negotiated"]
    assert secured.broken == []


def test_a_thread_renews_what_another_acquired(stage: Stage, secured: Sasl) -> None:
    auth = FakeAuth(seconds=1.5)
    with client_of(stage, auth) as client:
        table = client.table("temp")
        assert in_thread(table.get, "h", "s") is None
        assert auth.acquired == 1
        assert table.get("h", "s") is None
        assert auth.acquired == 1, "this thread uses what the other has acquired"
        wait_until(lambda: client.stats()["auth"]["renewals"] == 1)
        assert auth.acquired == 2


def test_a_renewal_of_one_thread_serves_the_others(stage: Stage, secured: Sasl) -> None:
    auth = FakeAuth(seconds=3.0)
    with client_of(stage, auth) as client:
        table = client.table("temp")
        assert table.get("h", "s") is None

        def stay() -> None:
            assert table.get("h", "s") is None
            gevent.sleep(2.9)
            assert table.get("h", "s") is None

        in_thread(stay)
        # At 2.4 s a renewal is due in both threads; the second one uses the credentials of the first.
        assert auth.acquired == 2
        assert auth.at_once == 1


def test_credentials_that_another_thread_has_just_renewed_are_not_renewed_again(stage: Stage, secured: Sasl) -> None:
    """The renewals of all threads are due at the same time. The other thread is done when the greenlet here starts."""
    auth = FakeAuth(seconds=3600.0)
    with client_of(stage, auth) as client:
        assert client.table("temp").get("h", "s") is None
        who = client._cluster.pool.authenticator
        assert who is not None
        who.credentials._ends -= 1000.0
        who.credentials.renew_at = 0.0
        who._due(who._timer)
        assert who.credentials.acquire(who.credentials.ends)
        wait_until(lambda: not who._is_acquiring())
        assert (auth.acquired, who.failures) == (2, 0)


def test_a_client_is_closed_when_the_loop_of_a_renewal_is_destroyed(stage: Stage, secured: Sasl) -> None:
    with client_of(stage, FakeAuth(seconds=3600.0)) as client:
        table = client.table("temp")

        def call_and_destroy() -> None:
            assert table.get("h", "s") is None
            clusters.append(client._threads.here())
            gevent.get_hub().destroy(destroy_loop=True)

        clusters: list[Any] = []
        in_thread(call_and_destroy)
        assert clusters[0].pool.authenticator.close() is None


def test_a_failure_is_raised_in_every_thread(stage: Stage, secured: Sasl) -> None:
    def fail() -> None:
        raise AuthenticationFailed("there is no ticket", reason="no_ticket")

    with client_of(stage, FakeAuth(work=fail)) as client:
        table = client.table("temp")
        errors = [in_thread(table.get, "h", "s"), in_thread(table.get, "h", "s")]
        with pytest.raises(AuthenticationFailed) as caught:
            table.get("h", "s")
        errors.append(caught.value)
        assert [(type(error), error.reason) for error in errors] == [(AuthenticationFailed, "no_ticket")] * 3
        assert len({id(error) for error in errors}) == 3
        assert client.stats()["auth"]["last_error"] == "there is no ticket"


def test_short_lived_threads_leave_no_descriptor_and_no_thread(stage: Stage, secured: Sasl) -> None:
    """The threads in which the mechanism runs end, too."""
    auth = FakeAuth(seconds=3600.0)
    with client_of(stage, auth) as client:
        table = client.table("temp")
        table.get("h", "s")
        in_thread(table.get, "h", "s")
        before = len(descriptors())
        for _ in range(20):
            assert in_thread(table.get, "h", "s") is None
        wait_until(lambda: len(client._threads.all) == 1)
        assert len(descriptors()) <= before + 4
        wait_until(lambda: len(os.listdir("/proc/self/task")) <= 8)
        assert auth.acquired == 1
