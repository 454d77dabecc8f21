"""``doctor``: connect step by step, and report what is wrong and what to do."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from time import perf_counter, time
from typing import Any, NamedTuple

import click
import gevent
from gevent import socket

from ..errors import InvalidArgument, MetaError, PegasusError, TableNotFound
from ..protocol import meta
from ..protocol import rpc as rpcs
from .frame import App, No, command, options, pass_app
from .metrics import first_line, read_metrics
from .output import Column
from .statuses import NO, OK
from .top import probe_keys

DIAL_TIMEOUT = 3.0
CALL_TIMEOUT = 5.0
SLOW_SECONDS = 0.5
# Lifetime of the test row; longer than the difference of the clocks. The server expires the row.
CLOCK_TTL = 600.0
CLOCK_LIMIT = 5.0
GOOD, BAD, SOSO = "ok", "WRONG", "note"


class Finding(NamedTuple):
    """One step: the check, its result, and advice."""

    step: str
    state: str
    what: str
    advice: str = ""


class Doctor:
    """Runs the checks. Each check is a generator of findings."""

    def __init__(self, app: App, *, write: bool) -> None:
        """Examine the cluster of a command."""
        self._app, self._write = app, write
        self._client = app.client
        # Addresses that were given as meta servers.
        self._replicas: set[str] = set()

    def examine(self) -> Iterator[Finding]:
        """Yield the findings. It ends after a finding that makes further checks useless."""
        reached: list[str] = []
        for address in self._app.metas:
            for finding in self._dial(address):
                yield finding
                if finding.step == "dial" and finding.state == GOOD:
                    reached.append(address)
        if not reached:
            yield Finding("meta", BAD, "no meta server can be reached", "see above; no further check is possible")
            return
        for address in reached:
            yield self._speak(address)
        if self._replicas.issuperset(reached):
            yield Finding("leader", BAD, "none of these is a meta server", "see above; no further check is possible")
            return
        try:
            facts = self._client.admin.cluster_info(timeout=CALL_TIMEOUT)
            nodes = self._client.admin.nodes(timeout=CALL_TIMEOUT)
        except PegasusError as error:
            advice = "the meta servers elect a leader through ZooKeeper: check their logs and ZooKeeper"
            yield Finding("leader", BAD, first_line(error), advice)
            return
        leader = facts.get("primary_meta_server", "")
        yield Finding(
            "leader", GOOD, f"{leader} is the leader; meta level {facts.get('meta_function_level', 'unknown')}"
        )
        dead = [node.address for node in nodes if not node.is_alive]
        text = f"{len(nodes) - len(dead)} of {len(nodes)} replica servers are alive"
        advice = f"start {', '.join(dead)}, or check the network" if dead else ""
        yield Finding("nodes", BAD if dead else GOOD, text, advice)
        yield from self._table()
        for node in nodes:
            if node.is_alive:
                yield from self._clock(node.address)

    # ------------------------------------------------------------------------------------------------------------ steps
    def _dial(self, address: str) -> Iterator[Finding]:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            with gevent.Timeout(DIAL_TIMEOUT, TimeoutError("no answer from the name servers")):
                found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            advice = "check the spelling, and that this machine's resolver knows the name"
            yield Finding("name", BAD, f"{host} cannot be resolved: {error}", advice)
            return
        addresses = sorted({str(info[4][0]) for info in found})
        if addresses != [host]:
            yield Finding("name", GOOD, f"{host} is {', '.join(addresses)}")
        began = perf_counter()
        try:
            socket.create_connection((host, int(port)), timeout=DIAL_TIMEOUT).close()
        except ConnectionRefusedError:
            advice = "the machine answers, but no server listens: check the port (default 34601), start the server"
            yield Finding("dial", BAD, f"{address} refuses connections", advice)
        except (TimeoutError, OSError) as error:
            advice = "a firewall drops packets, or the machine is down: try from another machine"
            yield Finding("dial", BAD, f"{address} cannot be reached: {str(error) or 'timed out'}", advice)
        else:
            yield Finding("dial", GOOD, f"{address} accepts connections ({_ms(began)})")

    def _speak(self, address: str) -> Finding:
        began = perf_counter()
        cluster = self._client._cluster
        try:
            answer: Any = cluster.meta.call_server(
                address, rpcs.LIST_NODES, meta.ListNodesRequest(), self._client.admin._deadline(CALL_TIMEOUT)
            )
        except MetaError as error:
            if error.code == "ERR_HANDLER_NOT_FOUND":
                self._replicas.add(address)
                text = f"{address} is a replica server"
                return Finding("meta", BAD, text, "give the meta servers, which have other ports")
            advice = "the cluster requires authentication" if "AUTH" in error.code or "ACL" in error.code else ""
            return Finding("meta", BAD, f"{address}: {first_line(error)}", advice)
        except PegasusError as error:
            return Finding(
                "meta",
                BAD,
                f"{address}: {first_line(error)}",
                "check whether this is a Pegasus server and whether it hangs",
            )
        if answer.err == "ERR_FORWARD_TO_OTHERS":
            return Finding("meta", GOOD, f"{address} answers, and is not the leader ({_ms(began)})")
        if answer.err == "ERR_OK":
            return Finding("meta", GOOD, f"{address} answers ({_ms(began)})")
        text = f"{address} answers {answer.err}"
        if answer.err == "ERR_SERVICE_NOT_ACTIVE":
            return Finding("meta", BAD, text, "it is starting, or has just become the leader: wait some seconds")
        return Finding("meta", BAD, text)

    def _table(self) -> Iterator[Finding]:
        admin = self._client.admin
        try:
            name = self._app.table_name
        except click.UsageError:
            names = [info.name for info in admin.list_tables()]
            if not names:
                yield Finding("table", SOSO, "there is no table", '"pegasus-green create NAME" creates one')
                return
            name = names[0]
        try:
            partitions = admin.partitions(name)
        except PegasusError as error:
            text, advice = first_line(error), error.hint
            if isinstance(error, TableNotFound):
                names = [info.name for info in admin.list_tables()]
                text, advice = f"there is no table {name}", f"the tables are: {', '.join(names) or 'none'}"
            yield Finding("table", BAD, text, advice)
            return
        orphans = [str(part.index) for part in partitions if not part.primary and part.ballot >= 0]
        weak = [part.index for part in partitions if part.primary and not part.is_healthy]
        if orphans:
            text = f"{name}: {len(orphans)} of {len(partitions)} partitions have no primary: {', '.join(orphans[:8])}"
            yield Finding("routes", BAD, text, 'start the dead servers; "pegasus-green lost" lists the lost partitions')
        else:
            text = f"{name}: {len(partitions)} partitions have a primary"
            more = f", {len(weak)} lack replicas" if weak else ""
            yield Finding("routes", SOSO if weak else GOOD, text + more)
        table = self._client.table(name)
        for node, keys in sorted(probe_keys(partitions).items()):
            began = perf_counter()
            try:
                table.get(keys[0], b"", timeout=CALL_TIMEOUT)
            except PegasusError as error:
                advice = error.hint or "check the server's log, and whether its address can be reached from here"
                yield Finding("read", BAD, f"{node}: {first_line(error)}", advice)
                continue
            slow = perf_counter() - began > SLOW_SECONDS
            yield Finding("read", SOSO if slow else GOOD, f"{node} answers a read of {name} ({_ms(began)})")
            if self._write:
                yield self._clock_by_ttl(table, node, keys[0])

    def _clock_by_ttl(self, table: Any, node: str, hash_key: bytes) -> Finding:
        """Write a row that expires, and compare the remaining time on the server with the expected time."""
        sort_key = f"doctor {random.randrange(1 << 32):08x}".encode()
        try:
            before = int(time())
            table.set(hash_key, sort_key, b"", ttl=CLOCK_TTL, timeout=CALL_TIMEOUT)
            left = table.ttl(hash_key, sort_key, timeout=CALL_TIMEOUT)
            table.remove(hash_key, sort_key, timeout=CALL_TIMEOUT)
        except PegasusError as error:
            return Finding("write", BAD, f"{node}: {first_line(error)}", error.hint)
        if left is None:
            text = f"{node}: a row with a TTL of {CLOCK_TTL:g} s expired at once"
            return Finding(
                "clock", BAD, text, "its clock is far ahead, or the local clock is far behind: check NTP on both"
            )
        return _clock(node, before + CLOCK_TTL - left - time(), "(by the TTL of a row)")

    def _clock(self, node: str) -> Iterator[Finding]:
        if self._write:
            return
        found = read_metrics(self._client, node)
        if found.error:
            text = f"{node}: its clock is not checked, because /metrics cannot be read: {found.error}"
            yield Finding("clock", SOSO, text, "doctor --write checks it with the TTL of a test row")
        else:
            yield _clock(node, found.at - found.asked, "(by /metrics)")


def _clock(node: str, difference: float, how: str) -> Finding:
    if abs(difference) < CLOCK_LIMIT:
        return Finding("clock", GOOD, f"{node}: less than {CLOCK_LIMIT:g} s from the local clock {how}")
    text = f"{node}: {abs(difference):,.0f} s {'ahead of' if difference > 0 else 'behind'} the local clock {how}"
    return Finding("clock", BAD, text, "rows expire too early or too late: check NTP on both machines")


def _ms(began: float) -> str:
    return f"{(perf_counter() - began) * 1000:,.1f} ms"


@command("doctor")
@options(
    click.option(
        "--write", is_flag=True, help="Check clocks with the TTL of a test row, which is written and removed."
    ),
)
@pass_app
def doctor(app: App, write: bool) -> int:
    """Find out why a cluster does not work: names, ports, leader, nodes, routes, reads, clocks.

    It reads a row from every primary of a table. The exit status is 1 if something is wrong.
    """
    steps: Counter[str] = Counter()

    def seen() -> Iterator[Finding]:
        # Each finding is printed at once: a step that waits for a silent server takes seconds.
        for finding in Doctor(app, write=write).examine():
            steps[finding.state] += 1
            yield finding

    try:
        if app.out.for_people:
            for finding in seen():
                _print(app, finding)
        else:
            app.out.rows([Column(name) for name in Finding._fields], seen())
    except InvalidArgument as error:
        raise click.UsageError(str(error.args[0])) from None
    if steps[BAD] and app.out.for_people:
        raise No(f"{steps[BAD]} of {steps.total()} steps found something wrong")
    return NO if steps[BAD] else OK


def _print(app: App, finding: Finding) -> None:
    mark = finding.state.ljust(5)
    if app.out.color:
        mark = click.style(mark, fg={GOOD: "green", BAD: "red", SOSO: "yellow"}[finding.state])
    app.out.done(f"{mark}  {finding.step.ljust(6)}  {finding.what}")
    if finding.advice:
        app.out.done(f"               -> {finding.advice}")
