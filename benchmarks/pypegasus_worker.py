"""The worker for pypegasus3, the Twisted client on PyPI, inside its own environment (Python 3.11).

Its calls are made as its documentation shows: in inlineCallbacks, one yield for each.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Generator
from typing import Any

from pypegasus.pgclient import Pegasus
from pypegasus.utils.tools import ScanOptions
from twisted.internet import defer, reactor

from benchmarks.payload import BATCHES, HASH_KEY, KEY_PAIRS, KEYS, ROWS, parse_table, sort_key, value_of
from benchmarks.pipe import Replies, Stopwatch

MASK = KEYS - 1
TIMEOUT_MS = 30000
Steps = Generator[Any, Any, Any]


def expect(what: str, got: Any, wanted: Any) -> None:
    """Check an answer, outside the measured part."""
    if got != wanted:
        raise AssertionError(f"{what}: expected {str(wanted)[:80]}, got {str(got)[:80]}")


class Peer:
    """One client and its scenario."""

    def __init__(self, meta: str, spec: dict[str, Any]) -> None:
        name = spec["tables"][0]
        self.client = Pegasus([meta], name, TIMEOUT_MS)
        self.value = value_of(parse_table(name)[0])
        self.callers = spec.get("callers", 1)
        self.loop = getattr(self, spec["scenario"])
        self.wanted: Any = None

    @defer.inlineCallbacks
    def get(self, start: int, count: int) -> Steps:
        client, answer = self.client, None
        for index in range(start, start + count):
            hash_key, sort = KEY_PAIRS[index & MASK]
            answer = yield client.get(hash_key, sort)
        self.wanted = 0, self.value
        return answer

    @defer.inlineCallbacks
    def set(self, start: int, count: int) -> Steps:
        client, answer = self.client, None
        for index in range(start, start + count):
            hash_key, sort = KEY_PAIRS[index & MASK]
            answer = yield client.set(hash_key, sort, self.value)
        self.wanted = 0, None
        return answer

    @defer.inlineCallbacks
    def multi_get(self, _start: int, count: int) -> Steps:
        answer = None
        for _ in range(count // ROWS):
            answer = yield self.client.multi_get(HASH_KEY, None, ROWS, 10_000_000)
        self.wanted = 0, {sort_key(0, row): self.value for row in range(ROWS)}
        return answer

    def scan(self, start: int, count: int) -> Any:
        """Scan the table of one partition."""
        return self.drain(lambda options: self.client.get_unordered_scanners(1, options)[0], count)

    def hash_scan(self, start: int, count: int) -> Any:
        """Scan one hash key; its next-bytes fails in Python 3, so a stop key has to be given."""
        return self.drain(lambda options: self.client.get_scanner(HASH_KEY.decode(), "r", "s", options), count)

    @defer.inlineCallbacks
    def drain(self, scan: Callable[[ScanOptions], Any], count: int) -> Steps:
        """Scan until this number of rows has arrived."""
        seen, last = 0, None
        options = ScanOptions()
        options.batch_size = ROWS
        for _ in range(count // (ROWS * BATCHES)):
            scanner = scan(options)
            row = yield scanner.get_next()
            while row is not None:
                seen, last = seen + 1, row
                row = yield scanner.get_next()
        self.wanted = count // (ROWS * BATCHES) * ROWS * BATCHES, self.value
        return seen, None if last is None else last[1]

    @defer.inlineCallbacks
    def run(self, calls: int) -> Steps:
        """Make the calls of one block."""
        each = max(1, calls // self.callers)
        watch = Stopwatch()
        answers = yield defer.gatherResults([self.loop(number * 7, each) for number in range(self.callers)])
        used = watch.stop(each * self.callers)
        for answer in answers:
            expect("answer of a caller", answer, self.wanted)
        return used


@defer.inlineCallbacks
def serve(meta: str, replies: Replies) -> Steps:
    """Answer commands until stdin ends. The reactor does not run between commands."""
    opened: list[Peer] = []
    answer: dict[str, Any]
    while (command := replies.next()) is not None:
        try:
            if command["do"] == "open":
                peer = Peer(meta, command)
                ready = yield peer.client.init()
                expect("init", ready, True)
                opened.append(peer)
                answer = {"id": len(opened) - 1}
            else:
                answer = yield opened[command["id"]].run(command["calls"])
        except Exception as error:
            if os.environ.get("BENCH_TRACE"):
                traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        replies.send(answer)
    os._exit(0)


if __name__ == "__main__":
    pipe = Replies()
    reactor.callWhenRunning(serve, sys.argv[1], pipe)
    reactor.run()
