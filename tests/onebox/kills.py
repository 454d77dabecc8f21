"""Kill a onebox with a data directory during writes, many times."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import gevent

from pegasus_green import Client, PegasusError, Table
from pegasus_green.onebox import OneboxProcess


class Writer:
    """Writes versions of a few keys, and knows the allowed values after a kill."""

    def __init__(self, name: str) -> None:
        self.name = name
        # By sort key: the states from the last acknowledged one to the last attempted one.
        self.states: dict[str, list[bytes | None]] = {f"{number}": [None] for number in range(5)}
        self.version = 0
        self.acknowledged = 0

    def run(self, client: Client, seed: int) -> None:
        with suppress(PegasusError):
            self._write(client.table("temp"), random.Random(seed))

    def _write(self, table: Table[bytes], dice: random.Random) -> None:
        while True:
            key, kind = dice.choice(list(self.states)), dice.random()
            self.version += 1
            value = b"%d" % self.version if kind < 0.8 else None
            self.states[key].append(value)
            if value is None:
                table.remove(self.name, key)
            else:
                table.set(self.name, key, value, ttl=3600 if kind < 0.1 else None)
            self.states[key] = self.states[key][-1:]
            self.acknowledged += 1

    def check(self, client: Client) -> None:
        for key, states in self.states.items():
            found = client.table("temp").get(self.name, key)
            assert found in states, (self.name, key, found, states)
            self.states[key] = [found]


def survive(folder: Path, kills: int, seed: int) -> int:
    """Kill a process during writes so many times; return the number of acknowledged writes."""
    dice, writers = random.Random(seed), [Writer(f"w{number}") for number in range(8)]
    for turn in range(kills + 1):
        box = OneboxProcess(data=folder, tables={"temp": 4}, replicas=1).start()
        try:
            with Client(box.meta_addresses, timeout=2) as client:
                for writer in writers:
                    writer.check(client)
                if turn < kills:
                    running = [gevent.spawn(writer.run, client, dice.randrange(1 << 30)) for writer in writers]
                    gevent.sleep(dice.uniform(0.02, 0.15))
                    os.kill(box.process.pid, signal.SIGKILL)
                    # They would retry until their deadlines; their writes may or may not be stored.
                    gevent.killall(running)
        finally:
            box.stop()
    return sum(writer.acknowledged for writer in writers)
