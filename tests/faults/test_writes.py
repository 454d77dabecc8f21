"""Test that acknowledged writes are not lost, unrepeatable ones not executed twice, and reported outcomes are true."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent
import pytest

from pegasus_green import CallInfo, CheckType, Client, Mutations, StorageError, Table
from pegasus_green.onebox import Onebox
from pegasus_green.protocol import rpc as rpcs
from tests.faults.ledger import DONE, NOT_DONE, UNKNOWN, Entry, Ledger
from tests.faults.random_faults import RandomFaults
from tests.faults.tools import Ended, primary_of

pytestmark = [pytest.mark.onebox_only]

_numbers = itertools.count(1)


class Write(NamedTuple):
    """A write operation: call(table, token, padding, info); once: it must not be executed twice."""

    call: Callable[[Table, bytes, bytes, CallInfo], Any]
    rpc: str
    once: bool


# The token is the hash key, so that every request has it; the padding makes a request large.
WRITES = {
    "set": Write(lambda t, token, pad, info: t.set(token, b"s", b"v" + pad, info=info), "put", False),
    "remove": Write(lambda t, token, pad, info: t.remove(token, b"s" + pad, info=info), "remove", False),
    "multi_set": Write(lambda t, token, pad, info: t.multi_set(token, {b"s": pad}, info=info), "multi_put", False),
    "multi_del": Write(lambda t, token, pad, info: t.multi_del(token, [b"s" + pad], info=info), "multi_remove", False),
    "incr": Write(lambda t, token, pad, info: t.incr(token, b"s" + pad, info=info), "incr", True),
    "check_and_set": Write(
        lambda t, token, pad, info: t.check_and_set(token, b"s", CheckType.NOT_EXIST, value=b"v" + pad, info=info),
        "check_and_set",
        True,
    ),
    "check_and_mutate": Write(
        lambda t, token, pad, info: t.check_and_mutate(
            token, b"s", CheckType.NOT_EXIST, mutations=Mutations().put(b"s", b"v" + pad), info=info
        ),
        "check_and_mutate",
        True,
    ),
}


class Mishap(NamedTuple):
    """A fault that hits a write once, and the expected reports of repeatable and unrepeatable writes.

    Attributes:
        fault: Arguments of ``Onebox.fault``.
        repeatable: The report of an idempotent write.
        once: The report of one that must not be repeated.
        runs: How often the write was executed before the client found out.
        large: The request must be larger than one segment.
    """

    fault: dict[str, Any]
    repeatable: str
    once: str
    runs: int
    large: bool = False


def _refused(error: str) -> Mishap:
    return Mishap({"action": "error", "error": error}, DONE, DONE, 0)


def _surfaced(error: str) -> Mishap:
    return Mishap({"action": "error", "error": error}, NOT_DONE, NOT_DONE, 0)


MISHAPS = {
    "reset before": Mishap({"action": "cut", "when": "before"}, DONE, UNKNOWN, 0),
    "closed before": Mishap({"action": "cut", "when": "before", "reset": False}, DONE, UNKNOWN, 0),
    "half a request": Mishap({"action": "cut", "when": "during"}, DONE, UNKNOWN, 0, large=True),
    "reset after": Mishap({"action": "cut", "when": "after"}, DONE, UNKNOWN, 1),
    "half a reply": Mishap({"action": "half"}, DONE, UNKNOWN, 1),
    "half a reply, then the end": Mishap({"action": "half", "reset": False}, DONE, UNKNOWN, 1),
    "no reply": Mishap({"action": "drop"}, UNKNOWN, UNKNOWN, 1),
    "lost request": Mishap({"action": "drop", "when": "before"}, UNKNOWN, UNKNOWN, 0),
    "late execution": Mishap({"action": "delay", "when": "before", "seconds": 1.0}, UNKNOWN, UNKNOWN, 1),
    "late reply": Mishap({"action": "delay", "seconds": 1.0}, UNKNOWN, UNKNOWN, 1),
    "reply twice": Mishap({"action": "duplicate"}, DONE, DONE, 1),
    "reply under another id": Mishap({"action": "unknown_id", "instead": True}, UNKNOWN, UNKNOWN, 1),
    "garbage": Mishap({"action": "garbage", "data": b"\0\0\0\x10" + b"\xff" * 12}, DONE, UNKNOWN, 1),
    "garbage with a possible length": Mishap(
        {"action": "garbage", "data": b"\x01\0\0\0" + b"\xff" * 60}, DONE, UNKNOWN, 1
    ),
    "4 GiB": Mishap({"action": "oversize", "size": 0x7FFFFFFF}, DONE, UNKNOWN, 1),
    "unreadable body": Mishap({"action": "corrupt"}, UNKNOWN, UNKNOWN, 1),
    "no body": Mishap({"action": "no_body"}, NOT_DONE, NOT_DONE, 0),
    "refused with a body": Mishap({"action": "error", "error": "ERR_BUSY", "body": True}, DONE, DONE, 0),
    **{
        error: _refused(error)
        for error in (
            "ERR_OBJECT_NOT_FOUND",
            "ERR_INVALID_STATE",
            "ERR_INACTIVE_STATE",
            "ERR_PARENT_PARTITION_MISUSED",
            "ERR_NOT_ENOUGH_MEMBER",
            "ERR_CAPACITY_EXCEEDED",
            "ERR_TRY_AGAIN",
            "ERR_BUSY",
            "ERR_SPLITTING",
        )
    },
    **{
        error: _surfaced(error)
        for error in (
            "ERR_DISK_INSUFFICIENT",
            "ERR_DISK_IO_ERROR",
            "ERR_OPERATION_DISABLED",
            "ERR_INVALID_DATA",
            "ERR_ACL_DENY",
            "ERR_UNAUTHENTICATED",
            "ERR_HANDLER_NOT_FOUND",
            "ERR_INVALID_PARAMETERS",
            "ERR_NEVER_HEARD_OF",
        )
    },
}


def _write_under(box: Any, table: Table, verb: str, mishap: Mishap) -> tuple[Entry, int]:
    """Make a write under a fault; return the reported outcome and how often the write was executed."""
    write = WRITES[verb]
    token = b"%s under mishap %d" % (verb.encode(), next(_numbers))
    contains = None if mishap.large else token
    rpc = None if mishap.large else write.rpc
    padding = b"." * 900_000 if mishap.large else b""
    rule = box.fault(**mishap.fault, rpc=rpc, contains=contains, server="replica", count=1)
    try:
        entry = Ledger().write(token, lambda info: write.call(table, token, padding, info), once=write.once)
        assert rule.hits == 1, (rule, entry)
    finally:
        rule.remove()
    if "seconds" in mishap.fault:
        gevent.sleep(mishap.fault["seconds"])
    return entry, box.executions(token)


@pytest.mark.both_modes
@pytest.mark.parametrize("name", MISHAPS)
def test_the_reported_outcome_of_a_write_agrees_with_the_cluster(onebox: Any, name: str) -> None:
    """Make each kind of write under each fault."""
    mishap = MISHAPS[name]
    # If only the deadline ends the wait, it is short and the writes run concurrently.
    waits = mishap.repeatable == mishap.once == UNKNOWN and mishap.fault["action"] != "corrupt"
    with Client(onebox.meta_addresses, timeout=0.6 if waits else 10.0) as client:
        table = client.table("temp")
        table.warm_up(timeout=5)
        calls = {verb: Ended(_write_under, onebox, table, verb, mishap) for verb in WRITES} if waits else {}
        for verb, write in WRITES.items():
            call = calls.get(verb) or Ended(_write_under, onebox, table, verb, mishap)
            error = call.join(30).error
            if error is not None:
                raise error
            entry, executions = call.value
            assert entry.disagreement(executions) is None, entry.disagreement(executions)
            assert entry.report == (mishap.once if write.once else mishap.repeatable), (verb, entry)
            repeated = entry.report == DONE and entry.attempts > 1
            assert executions == mishap.runs + repeated, (verb, entry, executions)
            if entry.error is not None:
                assert entry.error.operation == write.rpc, entry.error.operation
                assert entry.error.sent == (entry.report == UNKNOWN)


@pytest.mark.parametrize("verb", [*WRITES, "get", "ttl", "multi_get", "sort_key_count"])
def test_an_unexpected_storage_status_raises_with_its_number(onebox: Any, verb: str) -> None:
    """The error has the number of the status: 5 is an I/O error, not the timeout of a frame."""
    reads = {"get": rpcs.GET, "ttl": rpcs.TTL, "multi_get": rpcs.MULTI_GET, "sort_key_count": rpcs.SORTKEY_COUNT}
    rpc = reads[verb] if verb in reads else next(rpc for rpc in rpcs.RRDB_RPCS if rpc.label == WRITES[verb].rpc)
    assert rpc.response is not None
    body = rpc.response(error=5).encode()
    rule = onebox.fault("corrupt", rpc=rpc.label, contains=b"a broken disk", data=body)
    try:
        with Client(onebox.meta_addresses, timeout=5.0) as client:
            table = client.table("temp")
            table.warm_up()
            call = Ended(getattr(table, verb), b"a broken disk") if verb in reads else None
            call = call or Ended(WRITES[verb].call, table, b"a broken disk", b"", CallInfo())
            error = call.join().error
    finally:
        rule.remove()
    assert isinstance(error, StorageError)
    assert not isinstance(error, TimeoutError)
    assert (error.status, error.code) == (5, "ERR_FS_INTERNAL")
    assert rule.hits == 1, "it is not repeated"


def test_without_a_retry_policy_a_write_is_sent_at_most_once(onebox: Any) -> None:
    """With retry=None each write is sent at most once, whatever happens to it."""
    for name in ("reset before", "reset after", "half a reply", "ERR_OBJECT_NOT_FOUND", "ERR_BUSY", "garbage"):
        mishap = MISHAPS[name]
        with Client(onebox.meta_addresses, timeout=1.0, retry=None) as client:
            table = client.table("temp")
            table.warm_up(timeout=5)
            for verb in WRITES:
                entry, executions = _write_under(onebox, table, verb, mishap)
                assert executions == mishap.runs, (name, verb, entry)
                assert entry.attempts == 1, (name, verb, entry)
                assert entry.report == (NOT_DONE if name.startswith("ERR") else UNKNOWN), (name, verb, entry)


@pytest.mark.parametrize("verb", ["set", "incr", "check_and_set"])
def test_an_incr_that_was_never_sent_is_repeated(verb: str) -> None:
    """The connection was dead before the first byte was sent."""
    with Onebox(replicas=3, failover_delay=0.05) as box, Client(box.meta_addresses, timeout=5.0) as client:
        table = client.table("temp")
        table.warm_up()
        for number in range(3):
            token = b"unsent %s %d" % (verb.encode(), number)
            server = primary_of(client, token)
            # There is no switch to the hub between the reset and the write, so the client cannot know of the reset.
            box.kill(server)

            def write(info: CallInfo, token: bytes = token) -> None:
                WRITES[verb].call(table, token, b"", info)

            entry = Ledger().write(token, write, once=WRITES[verb].once)
            executions = box.executions(token)
            assert entry.report == DONE, entry
            assert executions == 1, (entry, executions)
            box.restart(server)
            gevent.sleep(0.15)


@pytest.mark.watchdog(180)
@pytest.mark.parametrize("seed", [6, 11])
def test_no_acknowledged_write_is_lost_under_random_faults(seed: int) -> None:
    """Servers and connections get random faults while many greenlets write."""
    faults = RandomFaults(seed, writers=60)
    faults.run(seconds=6.0)
    print(seed, faults.reports, faults.events)
    assert not faults.wrong, faults.wrong[:10]
    assert faults.reports[DONE] > 200, faults.reports
    assert faults.reports[UNKNOWN] > 0, faults.reports
    assert len(faults.events) >= 8, faults.events
