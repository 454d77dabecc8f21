"""``bench``: load a cluster with calls from many greenlets, and report rates, latencies and errors."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from ..errors import InvalidArgument, PegasusError
from .charts import LiveChart, Second, check_plot, live_chart, save_plot
from .config import EMPTY, Place, find_place
from .latencies import Latencies
from .statuses import NO, OK, USAGE, status_of

if TYPE_CHECKING:
    from ..client import Table

# If a run is killed, its records expire by themselves.
LEFTOVER_TTL = 3600.0
# A pause, so that a caller whose calls fail at once does not keep all others from running.
PAUSE_AFTER_ERROR = 0.01
CLEAN_UP_TIMEOUT = 30.0
SORT_KEY = b"bench"
COUNTER_KEY = b"count"
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
OPERATIONS = ("get", "set", "exist", "ttl", "remove", "incr")


def parse_mix(text: str) -> dict[str, int]:
    """Parse ``get:9,set:1`` and return the weights by operation.

    Raises:
        argparse.ArgumentTypeError: An operation is unknown, or a weight is not a whole number above 0.
    """
    mix: dict[str, int] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        if name not in OPERATIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(OPERATIONS)}")
        if weight and not (weight.isdigit() and 0 < int(weight) <= 1000):
            raise argparse.ArgumentTypeError(
                f"the weight of {name} must be a whole number from 1 to 1000, not {weight!r}"
            )
        mix[name] = mix.get(name, 0) + int(weight or 1)
    return mix


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    convert.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return convert


def _not_negative(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    whole, seconds = _positive(int), _positive(float)
    parser.add_argument(
        "--meta", metavar="HOST:PORT[,HOST:PORT]", help="meta servers [PEGASUS_URL, else the config file's default]"
    )
    parser.add_argument("--url", metavar="URL", help="meta servers, table and options of the client, in one URL")
    parser.add_argument("--cluster", metavar="NAME", help="a cluster of the config file")
    parser.add_argument("--config", metavar="FILE", help="the config file")
    parser.add_argument(
        "--table",
        metavar="NAME",
        help="an existing table; bench changes only its own records [the table of the URL or the file]",
    )
    parser.add_argument(
        "--callers", type=whole, default=64, metavar="N", help="number of greenlets that make calls [%(default)s]"
    )
    parser.add_argument(
        "--seconds", type=seconds, default=10.0, metavar="S", help="duration of the run in seconds [%(default)s]"
    )
    parser.add_argument(
        "--mix", type=parse_mix, default={"get": 9, "set": 1}, metavar="OP:N,...",
        help=f"operations and their weights; operations: {', '.join(OPERATIONS)} [get:9,set:1]",
    )  # fmt: skip
    parser.add_argument(
        "--value-bytes", type=_not_negative, default=100, metavar="N", help="size of a value in bytes [%(default)s]"
    )
    parser.add_argument("--keys", type=whole, default=1000, metavar="N", help="number of records [%(default)s]")
    parser.add_argument(
        "--timeout", type=seconds, default=2.0, metavar="S", help="seconds for a call with its retries [%(default)s]"
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the records (they expire after an hour)")
    parser.add_argument("--plot", metavar="FILE", help="draw the run: .png or .svg (needs the extra plot)")
    parser.add_argument(
        "--json", action="store_true", help="print the report as one line of JSON and nothing else on stdout"
    )


class Load:
    """The records, the callers and their counters.

    Attributes:
        latencies: Successful calls of this run by operation.
        recent: Successful calls since the last live line.
        errors: Failed calls by the error's name and code.
        wrong: Number of values that differed from the stored ones.
    """

    def __init__(self, table: Table[bytes], arguments: argparse.Namespace) -> None:
        """Prepare keys and operations; no I/O."""
        self.table = table
        self.callers: int = arguments.callers
        mark = f"pegasus_green-bench-{random.randrange(1 << 32):08x}-"
        self.keys = [f"{mark}{number:08d}".encode() for number in range(arguments.keys)]
        size = arguments.value_bytes
        self.values = [(key * (size // len(key) + 1))[:size] for key in self.keys]
        self.mix: dict[str, int] = arguments.mix
        self.latencies = {name: Latencies() for name in self.mix}
        self.recent = Latencies()
        self.errors: Counter[str] = Counter()
        self.wrong = 0
        self.running = False

    def fill(self) -> None:
        """Store every record, so that all reads find a value.

        Raises:
            PegasusError: A record could not be stored.
        """
        rows = [(key, SORT_KEY, value) for key, value in zip(self.keys, self.values)]
        self.table.set_many(rows, ttl=LEFTOVER_TTL, concurrency=self.callers)

    def clean_up(self) -> int:
        """Remove every record; return how many could not be removed."""
        sort_keys = (SORT_KEY, COUNTER_KEY) if "incr" in self.mix else (SORT_KEY,)
        keys = [(key, sort_key) for key in self.keys for sort_key in sort_keys]
        removed = self.table.remove_many(keys, timeout=CLEAN_UP_TIMEOUT, return_errors=True)
        return sum(error is not None for error in removed)

    def operations(self) -> dict[str, Callable[[int], Any]]:
        """Return the function of each operation; it takes the number of a record."""
        table, keys, values = self.table, self.keys, self.values
        removes = "remove" in self.mix

        def get(number: int) -> None:
            value = table.get(keys[number], SORT_KEY)
            if value != values[number] and not (value is None and removes):
                self.wrong += 1

        return {
            "get": get,
            "set": lambda number: table.set(keys[number], SORT_KEY, values[number], ttl=LEFTOVER_TTL),
            "exist": lambda number: table.exist(keys[number], SORT_KEY),
            "ttl": lambda number: table.ttl(keys[number], SORT_KEY),
            "remove": lambda number: table.remove(keys[number], SORT_KEY),
            "incr": lambda number: table.incr(keys[number], COUNTER_KEY, ttl=LEFTOVER_TTL),
        }

    def call(self, seed: int) -> None:
        """Run one caller: make calls one after the other until the load ends."""
        chance = random.Random(seed)
        operations = self.operations()
        pattern = [(operations[name], self.latencies[name]) for name, weight in self.mix.items() for _ in range(weight)]
        chance.shuffle(pattern)
        count, step = len(self.keys), 0
        number = chance.randrange(count)
        while self.running:
            operation, latencies = pattern[step % len(pattern)]
            step += 1
            number = (number * 5 + 7 + step) % count
            began = perf_counter()
            try:
                operation(number)
            except PegasusError as error:
                self.errors[f"{type(error).__name__} {error.code or ''}".strip()] += 1
                gevent.sleep(PAUSE_AFTER_ERROR)
                continue
            took = perf_counter() - began
            latencies.add(took)
            self.recent.add(took)

    def run(self, seconds: float, live: Callable[[int, Latencies, int], None]) -> float:
        """Run the callers, with a live line every second, until the time ends or SIGINT or SIGTERM comes.

        Returns:
            The duration in seconds.
        """
        stop = Event()
        watchers = [gevent.signal_handler(number, stop.set) for number in (signal.SIGINT, signal.SIGTERM)]
        self.running = True
        began = perf_counter()
        greenlets = [gevent.spawn(self.call, seed) for seed in range(self.callers)]
        try:
            second = 0
            while (left := began + seconds - perf_counter()) > 0:
                second += 1
                stop.wait(min(max(began + second - perf_counter(), 0), left))
                recent, self.recent = self.recent, Latencies()
                live(second, recent, self.errors.total())
                if stop.is_set():
                    break
        finally:
            self.running = False
            for watcher in watchers:
                watcher.cancel()
        gevent.joinall(greenlets, raise_error=True)
        return perf_counter() - began


class _Watching:
    """Shows every second of a run: in a chart on a terminal, else as a line; nothing if quiet."""

    def __init__(self, *, chart: LiveChart | None, quiet: bool) -> None:
        self._chart, self._quiet = chart, quiet
        self.seconds: list[Second] = []

    def __call__(self, second: int, recent: Latencies, errors: int) -> None:
        half, most = recent.percentile(0.5), recent.percentile(0.99)
        self.seconds.append(Second(recent.total, half, most))
        if self._chart is not None:
            self._chart.show(self.seconds, errors)
        elif not self._quiet:
            line = f"{second:4d} s {recent.total:10,d} calls   p50 {half:8.3f} ms   p99 {most:8.3f} ms"
            print(f"{line}   errors {errors:,d}", flush=True)

    def end(self) -> None:
        if self._chart is not None:
            self._chart.end()


def _report(load: Load, took: float, cpu: float, connections: int) -> dict[str, Any]:
    """Return the result as plain values."""
    everything = Latencies()
    for latencies in load.latencies.values():
        everything.merge(latencies)
    rows = {**load.latencies, "all": everything} if len(load.latencies) > 1 else load.latencies
    operations = {
        name: {
            "calls": found.total,
            "per_second": round(found.total / took, 1),
            **{f"{share}_ms": found.percentile(value) for share, value in SHARES.items()},
            "max_ms": found.worst / 1000,
        }
        for name, found in rows.items()
    }
    return {
        "seconds": round(took, 3),
        "callers": load.callers,
        "calls": everything.total,
        "per_second": round(everything.total / took, 1),
        "cpu_us_per_call": round(cpu / max(everything.total, 1) * 1e6, 2),
        "connections": connections,
        "operations": operations,
        "errors": dict(load.errors),
        "wrong_values": load.wrong,
    }


def _print_report(report: dict[str, Any]) -> None:
    print(
        f"\n{report['calls']:,} calls in {report['seconds']:.1f} s by {report['callers']:,} callers over"
        f" {report['connections']} connections: {report['per_second']:,.0f}/s,"
        f" {report['cpu_us_per_call']:.1f} us of CPU per call (user + system)\n"
    )
    shares = [*SHARES, "max"]
    print(f"{'':8} {'calls':>12} {'calls/s':>10} " + " ".join(f"{share + ' ms':>10}" for share in shares))
    for name, row in report["operations"].items():
        figures = " ".join(f"{row[share + '_ms']:10.3f}" for share in shares)
        print(f"{name:8} {row['calls']:12,} {row['per_second']:10,.0f} {figures}")
    errors = [f"{count:,} x {name}" for name, count in report["errors"].items()]
    if report["wrong_values"]:
        errors.append(f"{report['wrong_values']:,} WRONG VALUES")
    print(f"\nerrors: {', '.join(errors) or 'none'}")


def _place(arguments: argparse.Namespace) -> Place:
    """Return the cluster and the table of the arguments.

    Raises:
        InvalidArgument: There is no table, or a value is empty, for example because "$TABLE" is unset in a script.
    """
    for name in ("meta", "url", "cluster", "config", "table"):
        if getattr(arguments, name) == "":
            raise InvalidArgument(EMPTY.format(name))
    place = find_place(arguments.meta, arguments.url, arguments.cluster, arguments.config)
    table = arguments.table or place.table
    if not table:
        raise InvalidArgument("no table given: use --table NAME")
    return replace(place, table=table)


def run(arguments: argparse.Namespace) -> int:
    """Load the cluster, print the report and return the exit status.

    Returns:
        1: No call succeeded, or a value was wrong. 2: An option is wrong. 3 or 4: The records could not be stored. 0:
        None of these.
    """
    from ..client import Client

    try:
        if arguments.plot is not None:
            check_plot(arguments.plot)
        place = _place(arguments)
        client = Client(list(place.metas), **{**place.options, "timeout": arguments.timeout})
        load = Load(client.table(place.table), arguments)
    except InvalidArgument as error:
        print(f"bench: {error}", file=sys.stderr)
        return USAGE
    with client:
        try:
            load.table.warm_up()
            load.fill()
        except PegasusError as error:
            print(f"bench: {error}", file=sys.stderr)
            return status_of(error)
        if not arguments.json:
            mix = ", ".join(f"{name}:{weight}" for name, weight in load.mix.items())
            sizes = f"values of {arguments.value_bytes:,} bytes, {len(load.keys):,} records"
            print(f"{load.callers:,} callers, {mix}, {sizes}", flush=True)
        watching = _Watching(chart=None if arguments.json else live_chart(), quiet=arguments.json)
        cpu = process_time()
        try:
            took = load.run(arguments.seconds, watching)
        finally:
            watching.end()
        cpu = process_time() - cpu
        connections = sum(server["state"] == "open" for server in client.stats()["servers"].values())
        report = _report(load, took, cpu, connections)
        left = 0 if arguments.keep else load.clean_up()
    if arguments.plot is not None:
        title = f"{load.callers:,} callers, {report['per_second']:,.0f} calls/s"
        save_plot(arguments.plot, title, watching.seconds, load.latencies)
    if arguments.json:
        print(json.dumps(report))
    else:
        _print_report(report)
    if left:
        print(f"bench: {left:,} records could not be removed; they expire within an hour", file=sys.stderr)
    return OK if report["calls"] and not report["wrong_values"] else NO
