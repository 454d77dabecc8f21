"""An interruption between two steps of a recipe blocks no later call, of any greenlet or process.

Each operation runs many times. In the n-th run the n-th opcode of a recipe is interrupted: by an exception or by
a nested call of the same operation. The exception is kept, as an application may do, so the frames of the interrupted
call stay alive. ``make test`` interrupts at a random sample of the opcodes, ``make soak`` at all of them.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import gevent
import pytest

from pegasus_green import Client, PegasusError, RequestTimeout, Table
from pegasus_green.onebox import Onebox
from pegasus_green.recipes import Frontier, Leader, Lock, Once, RateLimiter, Singleflight, records
from tests.faults.interruptions import PACKAGE, Interrupted, Interruption
from tests.faults.tools import at_rest
from tests.waiting import Stopwatch, wait_until

pytestmark = [
    pytest.mark.onebox_only,
    # Python itself reports an exception in the callback of a weak reference.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Seconds of a lease, and the limit for a later call: a lease that nobody renews ends after LEASE + 2 seconds.
LEASE, LIMIT = 1.0, 5.0
SAMPLE = 15
# Bytes of code of a method before the `try` that covers the rest of it.
FIRST_STEP = 4
# The code below the recipes is interrupted by other tests.
FILES = (f"{PACKAGE}/recipes/", f"{PACKAGE}/turns.py", f"{PACKAGE}/transport/waits.py")
VALUE = b"value"
_names = count()
needs_opcodes = pytest.mark.skipif(
    (3, 13) <= sys.version_info < (3, 13, 1), reason="Python 3.13.0 does not report all opcodes to a trace function"
)


class Operation(NamedTuple):
    """An operation of a recipe that is interrupted.

    Attributes:
        make: Makes the object.
        run: Makes the call.
        expected: What it returns.
        shared: Whether several greenlets call at once.
    """

    make: Callable[[Table[bytes]], Any]
    run: Callable[[Any], Any]
    expected: Any
    shared: bool = True


def name() -> str:
    return f"interrupted {os.getpid()} {next(_names)}"


def compute() -> bytes:
    gevent.sleep(0.001)
    return VALUE


def with_lock(lock: Lock) -> bytes:
    with lock:
        return VALUE


def acquire_and_release(lock: Lock) -> bytes:
    lock.acquire()
    lock.release()
    return VALUE


class Held:
    """A lock that is held. It is not renewed by itself."""

    def __init__(self, table: Table[bytes]) -> None:
        self.lock = Lock(table, name(), timeout=60, renew=False)
        self.lock.acquire()


OPERATIONS = {
    "singleflight": Operation(
        lambda table: Singleflight(table, name(), ttl=60, timeout=LEASE, sleep=0.02),
        lambda flights: flights.get("key", compute),
        VALUE,
    ),
    "once": Operation(
        lambda table: Once(table, name(), timeout=LEASE, sleep=0.02), lambda once: once.run("key", compute), VALUE
    ),
    "hit": Operation(
        lambda table: RateLimiter(table, name(), limit=1000, period=60, algorithm="token_bucket"),
        lambda limiter: bool(limiter.hit("ada", timeout=LIMIT)),
        True,
    ),
    "with_lock": Operation(
        lambda table: Lock(table, name(), timeout=LEASE, sleep=0.02, blocking_timeout=LIMIT), with_lock, VALUE
    ),
    "acquire": Operation(
        lambda table: Lock(table, name(), timeout=LEASE, sleep=0.02, blocking_timeout=LIMIT), acquire_and_release, VALUE
    ),
    "extend": Operation(Held, lambda held: held.lock.extend(60, replace_ttl=True), expected=True),
    "leader": Operation(
        lambda table: Leader(table, name(), timeout=LEASE, sleep=0.02),
        lambda leader: leader.run(compute, blocking_timeout=LIMIT),
        VALUE,
        shared=False,
    ),
}
CASES = [
    (operation, kind)
    for operation in OPERATIONS
    for kind in ("exception", "nested")
    # A lock waits for its holder, also in the same greenlet, like every lock that is not reentrant.
    if (operation, kind) not in (("with_lock", "nested"), ("acquire", "nested"))
]


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    onebox: Any = Onebox(tables={"temp": 4}, process=True).start()
    hub = gevent.get_hub()
    before = hub.NOT_ERROR
    # They are intended: gevent is not to print each of them.
    hub.NOT_ERROR = (*before, Interrupted)
    yield onebox
    hub.NOT_ERROR = before
    onebox.stop()


@pytest.fixture
def client(box: Any) -> Iterator[Client]:
    with Client(box.meta_addresses, timeout=3.0) as client:
        client.table("temp").warm_up()
        yield client
        box.clear_faults()


class Trial:
    """One run of an operation with one interruption.

    Attributes:
        interruption: The interruption.
        wrong: The problems that were found.
    """

    def __init__(self, table: Table[bytes], operation: str, kind: str, n: int) -> None:
        self.table, self.kind = table, kind
        self.operation = OPERATIONS[operation]
        self.object = self.operation.make(table)
        self.interruption = Interruption(n, self._act, place="caller", opcodes=True, files=FILES)
        self.wrong: list[object] = []
        self.kept: list[BaseException] = []

    def _act(self) -> None:
        if self.kind == "exception":
            raise Interrupted
        clock = Stopwatch()
        try:
            value = self.operation.run(self.object)
        except RuntimeError as error:
            if "this greenlet is already inside" not in str(error):
                self.wrong.append(("nested", error))
        else:
            if value != self.operation.expected:
                self.wrong.append(("nested", value))
        if clock.seconds > LIMIT:
            self.wrong.append(("nested", clock.seconds))

    def _call(self, who: str) -> None:
        try:
            value = self.operation.run(self.object)
        except PegasusError as error:
            self.wrong.append((who, error.with_traceback(None)))
        else:
            if value != self.operation.expected:
                self.wrong.append((who, value))

    def _victim(self) -> None:
        try:
            with self.interruption.armed():
                self._call("victim")
        except Interrupted as error:
            self.kept.append(error)
            self._release_again()

    def run_interrupted(self, interruption: Interruption) -> None:
        """Only make the call, with another interruption."""
        self.interruption = interruption
        victim = gevent.spawn(self._victim)
        victim.join(LIMIT)
        assert victim.dead

    def run(self) -> None:
        greenlets: list[Any] = [gevent.spawn(self._victim)]
        if self.operation.shared:
            greenlets.append(gevent.spawn(self._call, "bystander"))
        gevent.joinall(greenlets, timeout=4 * LIMIT)
        self.wrong += [f"{one!r} hangs" for one in greenlets if not one.dead]
        gevent.killall(greenlets)
        clock = Stopwatch()
        later = gevent.spawn(self._call, "later")
        later.join(LIMIT)
        if not later.dead:
            self.wrong.append(f"a later call hangs: {self.object!r}")
            later.kill()
        if clock.seconds > LIMIT:
            self.wrong.append(f"a later call took {clock.seconds:.1f} s")
        self.wrong += at_rest(self.table.client)
        assert not self.wrong, (self.kind, self.interruption.n, self.interruption.where, self.wrong)

    def _release_again(self) -> None:
        """Release a lock if the interruption came where no code mends it: before the first or after the last step."""
        if isinstance(self.object, Lock) and self.object.remaining() > 0:
            function = self.interruption.where.split()[-1]
            if function in ("release", "__exit__"):
                expected = self.interruption.offset <= FIRST_STEP
            else:
                expected = function in ("acquire", "__enter__") and self.interruption.returning
            if not expected:
                self.wrong.append("the lock is still held")
            self.object.release()


def enumerate_points(client: Client, operation: str, kind: str, sample: int | None) -> None:
    table = client.table("temp")
    for _ in range(2):
        counted = Trial(table, operation, kind, 0)
        counted.run()
    points = range(1, counted.interruption.count + 1)
    assert len(points) > 50
    chosen = points if sample is None else sorted(random.sample(points, sample))
    for n in chosen:
        Trial(table, operation, kind, n).run()
    print(f"{operation}, {kind}: {len(chosen)} of {len(points)} points")


@needs_opcodes
@pytest.mark.parametrize(("operation", "kind"), CASES)
def test_an_interruption_at_sampled_steps_blocks_no_later_call(client: Client, operation: str, kind: str) -> None:
    enumerate_points(client, operation, kind, SAMPLE)


# --------------------------------------------------------------------------------------------------- the critical steps
def steps_of(run: Callable[[Interruption], object], function: str) -> Iterator[int]:
    """Return the numbers of the steps in a function of this name."""
    found: list[int] = []
    counter = Interruption(0, _raise, place="caller", opcodes=True, files=FILES)
    counter.seen = lambda number, frame: found.append(number) if frame.f_code.co_name == function else None
    run(counter)
    return iter(found)


@needs_opcodes
@pytest.mark.parametrize("operation", ["singleflight", "hit"])
def test_an_exception_in_the_step_that_ends_a_turn_blocks_nobody(client: Client, operation: str) -> None:
    table = client.table("temp")
    trial = Trial(table, operation, "exception", 0)
    steps = list(steps_of(trial.run_interrupted, "run"))
    assert len(steps) > 5
    for n in steps[-12:]:
        Trial(table, operation, "exception", n).run()


@needs_opcodes
@pytest.mark.parametrize("function", ["acquire", "_acquire", "_begin", "release", "_end", "__enter__", "__exit__"])
def test_an_interrupted_lock_is_not_renewed(client: Client, function: str) -> None:
    table = client.table("temp")
    operation = "with_lock" if function.startswith("__") else "acquire"
    trial = Trial(table, operation, "exception", 0)
    steps = list(steps_of(trial.run_interrupted, function))
    assert steps
    for n in random.sample(steps, min(len(steps), 30)):
        trial = Trial(table, operation, "exception", n)
        trial.run_interrupted(trial.interruption)
        assert trial.kept
        assert not trial.wrong, (trial.interruption.where, trial.wrong)
        assert trial.object._renewal is None


@pytest.mark.parametrize("operation", ["singleflight", "once", "leader", "hit"])
def test_a_function_that_would_wait_for_its_own_greenlet_gets_an_error(
    client: Client, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = client.table("temp")
    one = OPERATIONS[operation].make(table)
    if operation == "hit":
        # It does not need its turn.
        swap, inner = records.swap, []

        def nested(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            inner.append(one.hit("ada", timeout=1.0))
            return swap(*args, **options)

        monkeypatch.setattr(records, "swap", nested)
        assert one.hit("ada", timeout=1.0).remaining == 998
        assert inner[0].remaining == 999
        return

    def again(function: Callable[[], bytes]) -> Any:
        if operation == "singleflight":
            return one.get("key", function)
        return one.run("key", function) if operation == "once" else one.run(function)

    def function() -> bytes:
        with pytest.raises(RuntimeError, match="this greenlet is already inside"), gevent.Timeout(3):
            again(lambda: b"again")
        return VALUE

    assert again(function) == VALUE
    assert again(lambda: VALUE) == VALUE


# ------------------------------------------------------------------------------------------------------------- renewals
def keeper_trial(table: Table[bytes], n: int) -> Interruption:
    """Interrupt the renewing greenlet of a lock at the n-th step: it renews, or the loss is reported."""
    interruption = Interruption(n, _raise, place="helpers", opcodes=True, files=FILES)
    told: list[Any] = []
    lock = Lock(table, name(), timeout=60, on_lost=told.append)
    lock.timeout = 0.03  # only for the pauses between renewals
    lock.acquire()
    keeper: Any = lock._renewal
    with interruption.armed():
        gevent.sleep(0.03)
    gevent.sleep(0)
    if keeper.dead:
        wait_until(lambda: told)
        assert told == [lock], interruption.where
        assert lock.remaining() == 0.0
    else:
        assert not told, interruption.where
        assert lock.remaining() > 0
    lock.release()
    return interruption


def _raise() -> None:
    raise Interrupted


def test_a_lease_is_renewed_or_its_loss_is_reported_after_an_interruption(client: Client) -> None:
    table = client.table("temp")
    steps = keeper_trial(table, 0).count
    assert steps > 100
    # The first step can end the greenlet before any of its code runs.
    for n in [1, *random.sample(range(2, steps + 1), SAMPLE)]:
        keeper_trial(table, n)


# ------------------------------------------------------------------------------------------------------- failed callers
class Refused(Exception):
    """An error whose class takes other arguments than it stores."""

    def __init__(self, number: int) -> None:
        super().__init__(f"refused: {number}")
        self.number = number


@pytest.mark.parametrize(
    "error", [ValueError("no"), Refused(7), RequestTimeout("late", table="temp"), OSError(5, "io")]
)
def test_waiting_callers_get_copies_of_the_error(client: Client, error: Exception) -> None:
    flights = Singleflight(client.table("temp"), name(), ttl=60)

    def fail() -> bytes:
        gevent.sleep(0.01)
        raise error

    def get() -> Exception | None:
        try:
            flights.get("key", fail)
        except Exception as caught:
            return caught
        return None

    callers: list[Any] = [gevent.spawn(get) for _ in range(3)]
    gevent.joinall(callers)
    found = [caller.value for caller in callers]
    assert found[0] is error
    assert len({id(one) for one in found}) == 3
    for one in found:
        assert (type(one), str(one), vars(one)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("kind", ["function", "servers"])
@pytest.mark.parametrize("operation", ["singleflight", "once", "leader"])
def test_a_failed_call_leaves_no_cycle(box: Any, client: Client, operation: str, kind: str) -> None:
    """Its objects are freed at once, without the garbage collector."""

    def fail(_big: Any) -> bytes:
        raise ValueError

    class Big:
        pass

    table = client.table("temp")
    runs: dict[str, Callable[[Any], Any]] = {
        "singleflight": lambda big: Singleflight(table, name(), ttl=60).get("key", fail, big),
        "once": lambda big: Once(table, name()).run("key", fail, big),
        "leader": lambda big: Leader(table, name()).run(fail, big),
    }
    if kind == "servers":
        box.fault("error", error="ERR_ACL_DENY")
    gc.collect()
    gc.disable()
    try:
        big = Big()
        seen = weakref.ref(big)
        with pytest.raises((ValueError, PegasusError)) as caught:
            runs[operation](big)
        del caught, big
        gevent.sleep(0.01)
        assert seen() is None
    finally:
        gc.enable()


# ----------------------------------------------------------------------------------------------------- waits for a turn
def test_the_wait_for_a_turn_is_part_of_the_timeout(box: Any, client: Client) -> None:
    limiter = RateLimiter(client.table("temp"), name(), limit=100, period=60, algorithm="token_bucket")
    box.fault("drop", rpc=["get", "check_and_set"])

    def hit(seconds: float) -> float:
        clock = Stopwatch()
        with pytest.raises(PegasusError):
            limiter.hit("ada", timeout=seconds)
        return clock.seconds

    def hit_in_scope(seconds: float) -> float:
        clock = Stopwatch()
        with client.deadline(seconds), pytest.raises(PegasusError):
            limiter.hit("ada")
        return clock.seconds

    # The first one has its turn during the whole test.
    first = gevent.spawn(hit, 20.0)
    gevent.sleep(0)
    for call in (hit, hit_in_scope):
        callers: list[Any] = [gevent.spawn(call, 0.1) for _ in range(5)]
        gevent.joinall(callers, raise_error=True)
        assert max(caller.value for caller in callers) < 5.0
    assert not first.dead
    first.kill()


def test_hits_of_one_key_take_turns_in_their_order(client: Client) -> None:
    """Also after a caller that was killed while it waited."""
    limiter = RateLimiter(client.table("temp"), name(), limit=100, period=60, algorithm="token_bucket")
    order: list[int] = []

    def hit(number: int) -> None:
        limiter.hit("ada")
        order.append(number)

    callers = [gevent.spawn(hit, number) for number in range(10)]
    gevent.sleep(0)
    callers[4].kill()
    gevent.joinall(callers, raise_error=False)
    assert order == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert not limiter._turns._last
    assert not limiter._turns._own


@needs_opcodes
@pytest.mark.soak
@pytest.mark.watchdog(3600)
@pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="every point takes minutes: make soak")
@pytest.mark.parametrize(("operation", "kind"), CASES)
def test_an_interruption_at_every_step_blocks_no_later_call(client: Client, operation: str, kind: str) -> None:
    enumerate_points(client, operation, kind, None)


@pytest.mark.parametrize("name", ["_enqueue", "_recount"])
def test_a_call_of_a_signal_handler_leaves_no_open_item_of_a_frontier(box: Any, name: str) -> None:
    """While the handler waits, another greenlet finishes the item, or adds one."""
    with Client(box.meta_addresses) as client:
        numbers = count()

        def work(n: int) -> int:
            frontier = Frontier(client.table("temp"), f"{name}:{next(numbers)}", shards=1)

            def consume() -> None:
                while (job := frontier.take()) is not None:
                    assert frontier.done(job)

            def nested() -> None:
                if name == "_recount":
                    frontier.add("another item")
                else:
                    wait_until(lambda: not frontier._queue.qsize() and not frontier._hands)

            interruption = Interruption(n, nested, place="caller", opcodes=True, within={name, "<setcomp>"})
            if name == "_recount":
                for number in range(3):
                    frontier.add(f"item {number}")
                with interruption.armed():
                    frontier.resume()
            worker = gevent.spawn(consume)
            if name == "_enqueue":
                with interruption.armed():
                    frontier.add("item")
            wait_until(lambda: not frontier.open)
            frontier.stop()
            worker.get(timeout=10.0)
            return interruption.count

        for n in range(1, work(0) + 1):
            work(n)
