"""The worker for redis-py with hiredis under gevent, in an environment of its own: ``redis_worker PORT``."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import redis  # noqa: E402

from benchmarks.payload import KEY_PAIRS, KEYS, parse_table, value_of  # noqa: E402
from benchmarks.pipe import Replies, Stopwatch  # noqa: E402

MASK = KEYS - 1
NAMES = [hash_key + sort for hash_key, sort in KEY_PAIRS]


class Peer:
    """One client with its pool of connections, one for each caller."""

    def __init__(self, port: int, spec: dict[str, Any]) -> None:
        self.client = redis.Redis(port=port)
        self.value = value_of(parse_table(spec["tables"][0])[0])
        self.callers = spec["callers"]
        for name in NAMES:
            self.client.set(name, self.value)

    def loop(self, start: int, count: int) -> Any:
        """Make one caller's calls."""
        get, answer = self.client.get, None
        for index in range(start, start + count):
            answer = get(NAMES[index & MASK])
        return answer

    def run(self, calls: int) -> dict[str, Any]:
        """Make the calls of one block."""
        each = max(1, calls // self.callers)
        watch = Stopwatch()
        greenlets = [gevent.spawn(self.loop, number * 7, each) for number in range(self.callers)]
        gevent.joinall(greenlets, raise_error=True)
        used = watch.stop(each * self.callers)
        if any(greenlet.value != self.value for greenlet in greenlets):
            raise AssertionError("a wrong value")
        return used


def main() -> None:
    """Answer commands until stdin ends."""
    opened: list[Peer] = []

    def handle(command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "open":
            opened.append(Peer(int(sys.argv[1]), command))
            return {"id": len(opened) - 1}
        return opened[command["id"]].run(command["calls"])

    Replies().serve(handle)


if __name__ == "__main__":
    main()
