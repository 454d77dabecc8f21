"""One of several processes that share recipes: `python -m tests.recipes.holder META NAME TURNS`.

Each turn adds one to a number by reading and writing it, which only a lock makes right. What it did goes to stdout.
"""

from __future__ import annotations

import json
import sys

import gevent

from pegasus_green import Client
from pegasus_green.recipes import Lock, Singleflight


def main(meta: str, name: str, turns: int) -> None:
    computed: list[int] = []
    tokens: list[int] = []

    def compute(turn: int) -> str:
        computed.append(turn)
        gevent.sleep(0.02)
        return str(turn)

    with Client(meta, timeout=20.0) as client:
        table = client.table("temp")
        flights = Singleflight(table, name, ttl=600, sleep=0.01)
        for turn in range(turns):
            with Lock(table, name, timeout=20, sleep=0.01) as lock:
                number = int(table.get(name, "number") or 0)
                table.set(name, "number", str(number + 1))
                tokens.append(lock.fencing_token)
            assert flights.get(str(turn), compute, turn) == b"%d" % turn
    print(json.dumps({"computed": computed, "tokens": tokens}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
