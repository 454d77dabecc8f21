"""Raise exceptions and make nested calls at random moments of many calls, in the main thread and in native threads.

    python -m tests.faults.random_exceptions SECONDS SEED

In the main thread the handler of a timer signal raises or calls, wherever the code of the package is at that moment. In
two other threads ``PyThreadState_SetAsyncExc`` raises. The program prints counts. It ends with status 1 and a list of
problems when a call got the value of another call, when something is left behind, or when an unexpected error was
raised. It runs in its own process, so that a crash of the compiled core is visible.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import signal
import sys
import threading
import time
from collections import Counter
from random import Random
from types import FrameType
from typing import Any

import gevent
from gevent.exceptions import BlockingSwitchOutError

from pegasus_green import Client, PegasusError
from pegasus_green.accelerate import core
from pegasus_green.onebox import Onebox
from tests.faults.interruptions import PACKAGE, Interrupted
from tests.faults.tools import at_rest

CALLERS = 12
THREADS = 2
KEYS = [b"exceptions %d" % number for number in range(32)]
# Seconds between two interruptions: the minimum, without which no clean-up could finish, and the random mean above it.
LEAST_PAUSE, PAUSE = 0.001, 0.001


def value_of(key: bytes) -> bytes:
    return b"value of " + key


class RandomExceptions:
    """Callers that check every value, and what interrupts them.

    Attributes:
        wrong: The problems that were found.
        counts: Calls and interruptions.
    """

    def __init__(self, client: Client, seed: int) -> None:
        self.client, self.table = client, client.table("temp")
        self.random = Random(seed)
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.over = False

    def call(self, random: Random) -> None:
        """Make one call, and check what it returns."""
        kind, key = random.random(), random.choice(KEYS)
        if kind < 0.6:
            self.expect(key, [self.table.get(key, b"s")], [key])
        elif kind < 0.8:
            self.table.set(key, b"s", value_of(key))
        elif kind < 0.9:
            keys = random.sample(KEYS, 5)
            self.expect(key, self.table.get_many([(one, b"s") for one in keys]), keys)
        else:
            keys = random.sample(KEYS, 3)
            handles = [self.table.get_async(one, b"s") for one in keys]
            self.expect(key, [handle.get() for handle in handles], keys)
        self.counts["calls"] += 1

    def expect(self, what: bytes, values: list[Any], keys: list[bytes]) -> None:
        if values != [value_of(key) for key in keys]:
            self.wrong.append(f"{what!r}: {values} for {keys}")

    def work(self, seed: int) -> None:
        """Call until it is over, whatever interrupts it."""
        random = Random(seed)
        while not self.over:
            try:
                while not self.over:
                    self.call(random)
            except (Interrupted, KeyboardInterrupt):
                self.counts["interrupted"] += 1
            except PegasusError as error:
                # A connection with an uncertain state is closed, and writes on it fail.
                self.counts[type(error).__name__] += 1
            except BaseException as error:
                self.wrong.append(f"{error!r}")
                raise

    def interrupt(self, _number: int, frame: FrameType | None) -> None:
        """Raise or call, but only while the code of the package runs, not that of gevent."""
        if self.over:
            return
        signal.setitimer(signal.ITIMER_REAL, LEAST_PAUSE + self.random.expovariate(1 / PAUSE))
        if frame is None or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        kind = self.random.random()
        if kind < 0.4:
            raise Interrupted
        if kind < 0.6:
            raise KeyboardInterrupt
        key = self.random.choice(KEYS)
        try:
            self.expect(b"nested", [self.table.get(key, b"s")], [key])
            self.counts["nested"] += 1
        except BlockingSwitchOutError:
            self.counts["nested in the hub"] += 1
        except PegasusError as error:
            self.counts[f"nested {type(error).__name__}"] += 1

    def interrupt_threads(self, threads: list[threading.Thread]) -> None:
        """Raise an exception in each thread that runs code of the package."""
        frames = sys._current_frames()
        for thread in threads:
            frame = frames.get(thread.ident or 0)
            if frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
                self.counts["interrupted in a thread"] += 1
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted)
                )

    def in_thread(self, number: int) -> None:
        """Run callers in a native thread, under its own hub."""
        hub = gevent.get_hub()
        hub.NOT_ERROR = (*hub.NOT_ERROR, Interrupted)
        greenlets = [gevent.spawn(self.work, 1000 * number + one) for one in range(CALLERS // 2)]
        while not all(greenlet.dead for greenlet in greenlets):
            try:
                gevent.joinall(greenlets)
            except Interrupted:
                continue

    def run(self, seconds: float) -> None:
        """Call and interrupt for that many seconds."""
        self.over = False
        threads = [threading.Thread(target=self.in_thread, args=[number]) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        hub = gevent.get_hub()
        hub.NOT_ERROR = (*hub.NOT_ERROR, Interrupted, KeyboardInterrupt)
        greenlets = [gevent.spawn(self.work, number) for number in range(CALLERS)]
        signal.signal(signal.SIGALRM, self.interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.wrong:
            try:
                gevent.sleep(0.001)
                self.interrupt_threads(threads)
            except (Interrupted, KeyboardInterrupt):
                continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.over = True
        gevent.joinall(greenlets, timeout=10)
        self.wrong += [f"{greenlet!r} hangs" for greenlet in greenlets if not greenlet.dead]
        for thread in threads:
            thread.join(10)
            if thread.is_alive():
                self.wrong.append(f"{thread!r} hangs")

    def look(self) -> None:
        """Check every value, and that nothing is left behind."""
        self.expect(b"afterwards", self.table.get_many([(key, b"s") for key in KEYS]), KEYS)
        self.wrong += at_rest(self.client)
        gc.collect()
        slots = sum(type(one).__module__ == "pegasus_green._core" for one in gc.get_objects())
        if slots:
            self.wrong.append(f"{slots} objects of the compiled core are left")


def main() -> int:
    """Run, check, and print what was wrong."""
    faulthandler.enable()
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    box: Any = Onebox(tables={"temp": 8}, process=True).start()
    with Client(box.meta_addresses, timeout=5.0) as client:
        exceptions = RandomExceptions(client, seed)
        exceptions.table.set_many([(key, b"s", value_of(key)) for key in KEYS])
        # Everything that is allocated only once exists before the count.
        exceptions.run(0.5)
        exceptions.look()
        blocks = sys.getallocatedblocks()
        exceptions.run(seconds)
        exceptions.look()
        more = sys.getallocatedblocks() - blocks
        if more > 20_000:
            exceptions.wrong.append(f"{more} blocks of memory more than before")
    box.stop()
    print(dict(exceptions.counts), f"{more} blocks more, core {'on' if core else 'off'}")
    print(*exceptions.wrong[:10], sep="\n")
    return int(bool(exceptions.wrong))


if __name__ == "__main__":
    sys.exit(main())
