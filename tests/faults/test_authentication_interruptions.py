"""An exception between any two steps of the authentication leaves nothing that blocks later calls.

Credentials are acquired or renewed many times. In the n-th run, an exception is raised at the n-th opcode inside the
package: in the greenlet that needs them, in the hub, in the greenlet that acquires them, or in its native thread. Then
later calls must get credentials, renewals must continue, and no thread may count as running. ``make test`` takes a
random sample of the opcodes, ``make soak`` all of them. The other tests interrupt at the step that a rule is about.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent import get_hub
from gevent.monkey import get_original

from pegasus_green import Client
from pegasus_green.auth.gss import KerberosMechanism
from pegasus_green.errors import AuthenticationFailed
from pegasus_green.events import Listeners
from pegasus_green.options import ClientOptions
from pegasus_green.transport import authenticator, credentials, fork, reach, threads
from pegasus_green.transport.pool import Pool
from tests.faults.interruptions import Interrupted, Interruption
from tests.faults.tools import settled
from tests.transport.secured import FakeAuth
from tests.waiting import Stopwatch, wait_until

pytestmark = [
    pytest.mark.onebox_only,
    # Python itself reports an exception in a native thread.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# A later call has this many seconds. With the shorter intervals below, it needs some hundredths of a second.
LIMIT = 5.0
# Opcodes of one verb, place and kind in `make test`.
SAMPLE = 8
KINDS = {"interrupt": Interrupted, "memory": MemoryError}
CASES = [
    (verb, place, kind)
    for verb, places in (
        ("acquire", ("caller", "hub", "helpers", "thread")),
        ("renew", ("hub", "helpers", "thread")),
    )
    for place in places
    for kind in KINDS
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the intervals at which the client looks for lost events, and keep gevent from printing exceptions."""
    for module in (authenticator, credentials, threads):
        monkeypatch.setattr(module, "LOOK_FOR_LOST", 0.02)
    monkeypatch.setattr(authenticator, "LOOK_AGAIN", 0.02)
    monkeypatch.setattr(authenticator, "SOONEST", 0.002)
    monkeypatch.setattr(authenticator, "RETRY_BASE", 0.01)
    monkeypatch.setattr(get_hub(), "NOT_ERROR", (*get_hub().NOT_ERROR, Interrupted, MemoryError))


def in_threads(interruption: Interruption, patches: pytest.MonkeyPatch) -> None:
    """Interrupt the native threads that the client starts from now on."""
    start = threads._start_new_thread
    interruption._is_ours = lambda _greenlet: True

    def run(holder: list[Any]) -> None:
        sys.settrace(interruption._call)
        # Not kept by this frame: the end of the object means the end of the thread.
        holder.pop()()

    patches.setattr(threads, "_start_new_thread", lambda work, _arguments: start(run, ([work],)))


class Trial:
    """Acquires or renews credentials with one exception.

    Attributes:
        auth: The mechanism.
        pool: A pool without servers.
        interruption: The exception.
    """

    def __init__(self, verb: str = "acquire", place: str = "caller", kind: str = "interrupt", n: int = 0) -> None:
        self.auth = FakeAuth(seconds=3600.0)
        options = ClientOptions(auth=self.auth, auth_timeout=LIMIT)
        self.pool = Pool(options, Listeners(lambda: None))
        found = self.pool.authenticator
        assert found is not None
        self.who = found
        self.verb, self.place, self.kind = verb, place, kind
        self.interruption = Interruption(n, self._act, place=place, opcodes=True)

    def _act(self) -> None:
        raise KINDS[self.kind]

    def once(self) -> bytes:
        """Do what a dial does."""
        self.pool.prepare()
        return self.who.begin(monotonic() + LIMIT)[0].initial()

    def renew(self) -> None:
        """Make a renewal due, and wait for its end. No call asks for it."""
        before = self.auth.acquired
        self.who.credentials.renew_at = 0.0
        self.who._plan_renewal()
        until = monotonic() + LIMIT
        while self.auth.acquired == before:
            assert monotonic() < until, "no renewal"
            gevent.sleep(0.001)

    def call(self) -> None:
        """Get credentials and a token. An attempt may fail, because the exception may have ended the acquisition."""
        watch = Stopwatch()
        while True:
            try:
                assert self.once() == b"token"
                break
            except AuthenticationFailed:
                gevent.sleep(0.005)
            assert watch.seconds < LIMIT
        assert watch.seconds < LIMIT

    def _victim(self, others: list[Any]) -> None:
        with (
            contextlib.suppress(Interrupted, MemoryError, AuthenticationFailed),
            pytest.MonkeyPatch.context() as patches,
        ):
            if self.place == "thread":
                in_threads(self.interruption, patches)
                self._run()
            else:
                with self.interruption.armed(others):
                    self._run()

    def _run(self) -> None:
        if self.verb == "acquire":
            self.once()
        else:
            self.renew()

    def left(self) -> list[str]:
        found = [f"greenlet {one!r}" for one in self.pool._greenlets]
        if self.who._threads.running or threads._is_any_under_way():
            found.append("a thread runs")
        return found

    def check(self) -> None:
        """More calls than there are threads, and a renewal, work. Nothing is left, and the mechanism is not shared."""
        for _ in range(threads.THREADS + 1):
            self.who.credentials.forget(self.who.credentials.ends)
            self.call()
        self.renew()
        assert not settled(self.left)
        assert self.auth.at_once == 1
        assert self.pool.peer("127.0.0.1:1").state == "idle"

    def run(self) -> Trial:
        where = self.interruption
        if self.verb == "renew":
            self.call()
        bystander: Any = gevent.spawn(self.call)
        victim: Any = gevent.spawn(self._victim, [bystander])

        def check() -> None:
            gevent.joinall([victim, bystander])
            self.check()

        after: Any = gevent.spawn(check)
        after.join(3 * LIMIT)
        try:
            assert after.dead, (where.n, where.where, "hangs")
            for greenlet in (victim, bystander, after):
                assert greenlet.exception is None, (where.n, where.where, greenlet.exception)
        finally:
            gevent.killall([victim, bystander, after])
            self.pool.close()
        return self


def interrupt_each(verb: str, place: str, kind: str, sample: int | None) -> tuple[int, int]:
    """Interrupt at a sample of the opcodes, or at all of them; return their number and that of the tried ones."""
    # The first run may do work that later runs do not repeat.
    count = max(Trial(verb, place, kind).run().interruption.count for _ in range(2))
    points = range(1, count + 1)
    chosen = points if sample is None else sorted(random.sample(points, min(sample, count)))
    for n in chosen:
        Trial(verb, place, kind, n).run()
    return count, len(chosen)


@pytest.mark.parametrize(("verb", "place", "kind"), CASES)
def test_an_exception_at_sampled_steps_does_not_block_later_calls(verb: str, place: str, kind: str) -> None:
    count, tried = interrupt_each(verb, place, kind, SAMPLE)
    print(f"{verb}, {place}, {kind}: {tried} of {count} opcodes")
    assert count > 40
    assert tried == SAMPLE


@pytest.mark.soak
@pytest.mark.watchdog(3600)
@pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="every opcode takes minutes: make soak")
@pytest.mark.parametrize(("verb", "place", "kind"), CASES)
def test_an_exception_at_every_step_does_not_block_later_calls(verb: str, place: str, kind: str) -> None:
    count, _ = interrupt_each(verb, place, kind, None)
    print(f"{verb}, {place}, {kind}: {count} opcodes")


# ---------------------------------------------------------------------------------------------------- at a known step
@pytest.fixture
def trial() -> Iterator[Trial]:
    made = Trial()
    yield made
    made.pool.close()


def raise_first(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """Raise at the first call of a function; return a list with one item for each call."""
    usual, calls = getattr(owner, name), []

    def first(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise Interrupted
        return usual(*args)

    monkeypatch.setattr(owner, name, first)
    return calls


def checked(trial: Trial, *run: Callable[[], object]) -> None:
    """Run functions and the check in a greenlet that must end."""
    greenlet: Any = gevent.spawn(lambda: [each() for each in (*run, trial.check)])
    greenlet.join(3 * LIMIT)
    assert greenlet.dead, "hangs"
    greenlet.get()


@pytest.mark.parametrize(
    ("owner", "name"),
    [(authenticator.Authenticator, "_acquire"), (threads._Line, "_ended"), (threads, "_run"), (threads, "tell")],
)
def test_later_calls_get_credentials_after_the_end_of(
    monkeypatch: pytest.MonkeyPatch, trial: Trial, owner: Any, name: str
) -> None:
    """The acquiring greenlet, the callback of the hub, and the thread end at their first step, or wake nobody."""
    calls = raise_first(monkeypatch, owner, name)
    checked(trial, trial.call)
    assert len(calls) > 1


def test_a_thread_that_ends_without_a_result_is_an_error(trial: Trial) -> None:
    def ends(task: Any, _tell: Any) -> None:
        task.began = True

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(threads, "_run", ends)
        with pytest.raises(RuntimeError, match="ended without a result"):
            trial.who._threads.run(lambda: None, monotonic() + LIMIT)
    checked(trial)


def test_a_lost_renewal_is_repeated(monkeypatch: pytest.MonkeyPatch, trial: Trial) -> None:
    trial.call()
    calls = raise_first(monkeypatch, authenticator.Authenticator, "_due")
    checked(trial, trial.renew)
    assert len(calls) > 1


def test_a_thread_that_keeps_its_turn_does_not_block_others(trial: Trial) -> None:
    shared = trial.who.credentials
    get_original("_thread", "start_new_thread")(
        lambda: shared._turns.setdefault(fork.generation(), credentials._Turn()), ()
    )
    wait_until(lambda: bool(shared._turns))
    checked(trial, trial.call)


def test_an_interrupted_reset_in_a_forked_child_is_repeated(trial: Trial) -> None:
    """Greenlets of the parent never end in the child. At any interruption, none of them is kept."""
    peer = trial.pool.peer("127.0.0.1:1")
    trial.pool.closed = True
    client = Client(["127.0.0.1:1"])
    routes, meta = client._cluster.table("temp").routes, client._cluster.meta
    # The next query is far away.
    routes._started = 1e9
    endless = gevent.Greenlet(lambda: None)
    resets: list[tuple[Any, str, Any, Callable[[], object]]] = [
        (trial.who, "_job", None, trial.who._look_for_fork),
        (peer, "_dialling", None, lambda: peer.connect(monotonic() + LIMIT)),
        (routes, "_query_greenlet", None, routes.request),
        (meta, "_resolving", {}, lambda: meta._resolve(again=False)),
    ]
    for owner, name, expected, reset in resets:
        for n in range(1, 1000):
            owner._generation = -1
            setattr(owner, name, {"name": endless} if expected == {} else endless)
            interruption = Interruption(n, trial._act, place="caller", opcodes=True)
            with contextlib.suppress(Interrupted), interruption.armed():
                reset()
            reset()
            assert getattr(owner, name) == expected, (name, interruption.where)
            if not interruption.fired:
                break
        assert n > 10
    client.close()


def test_an_interrupted_reset_of_the_mechanism_is_repeated() -> None:
    """Without its keytab, the mechanism would use the default ticket cache."""
    for n in range(1, 1000):
        mechanism: Any = object.__new__(KerberosMechanism)
        mechanism._keytab, mechanism._ccache, mechanism._credentials = "/keytab", None, None
        mechanism._pid, mechanism._store, mechanism._inherited = 0, {}, []

        def act() -> None:
            raise Interrupted

        interruption = Interruption(n, act, place="caller", opcodes=True)
        with contextlib.suppress(Interrupted), interruption.armed():
            mechanism._leave_parent()
        mechanism._leave_parent()
        assert mechanism._store["client_keytab"] == "/keytab", interruption.where
        if not interruption.fired:
            break
    # Python 3.13.0 reports no opcodes of a function that calls no other function of Python.
    assert n > (30 if sys.version_info < (3, 13) else 1)


def test_a_dialogue_of_an_interrupted_dial_is_not_reported(trial: Trial) -> None:
    peer: Any = trial.pool.peer("127.0.0.1:1")
    peer._dialogue = object()
    assert peer.state == "idle"
    assert peer._because() == ""


def test_an_interrupted_attempt_to_connect_does_not_delay_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dial ends when all attempts have ended, not at its time limit."""
    raise_first(monkeypatch, reach._Race, "_try")

    def refused(*_args: Any) -> None:
        raise ConnectionRefusedError("refused")

    watch = Stopwatch()
    attempt: Any = gevent.spawn(reach.reach, ["127.0.0.1:1", "127.0.0.1:2"], 4 * LIMIT, refused)
    with pytest.raises(OSError, match=r"127\.0\.0\.1:2: refused"):
        attempt.get()
    assert watch.seconds < LIMIT
