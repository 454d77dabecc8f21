"""A tour of pegasus_green; ``make demo`` runs it.

    python examples/quickstart.py                                          with an embedded cluster of its own
    python examples/quickstart.py --meta 10.0.0.1:34601,10.0.0.2:34601 --table temp     with yours

It writes only rows whose hash keys begin with "quickstart", and removes them.
"""

import argparse
import logging
import sys
import time
from contextlib import ExitStack

import gevent

from pegasus_green import (
    CheckType,
    Client,
    IntegerOverflow,
    MultiGetOptions,
    Mutations,
    Pegasus,
    ScanOptions,
    error_types,
    filter_type,
)

GREENLETS, CALLS_EACH = 1000, 100


def show(call, result):
    print(f"  {call:<58} {result}", flush=True)
    return result


def documented(metas, table_name):
    print("\nThe documented API: each call returns a code and a result, and blocks only its greenlet.")
    c = Pegasus(metas, table_name)
    if not show("Pegasus(metas, table).init()", c.init()):
        raise SystemExit("ERROR: connect pegasus server failed")
    show("c.set('quickstart', 'name', 'Ada', 60)", c.set("quickstart", "name", "Ada", 60))
    show("c.get('quickstart', 'name')", c.get("quickstart", "name"))
    show("c.ttl('quickstart', 'name')", c.ttl("quickstart", "name"))
    code, _ = show("c.get('quickstart', 'no such key')", c.get("quickstart", "no such key"))
    show("error_types(10).name", error_types(code).name)
    rows = {f"day {n:02}": str(n * n) for n in range(1, 29)}
    show("c.multi_set('quickstart', {28 rows})", c.multi_set("quickstart", rows))
    show("c.multi_get('quickstart', {'day 02', 'day 03'})", c.multi_get("quickstart", {"day 02", "day 03"}))
    options = MultiGetOptions()
    options.sortkey_filter_type, options.sortkey_filter_pattern = filter_type.FT_MATCH_PREFIX, "day 2"
    code, found = c.multi_get_opt("quickstart", "", "", options, 5)
    show("c.multi_get_opt(..., prefix 'day 2', at most 5)", f"{error_types(code).name}, {len(found)} rows")
    show("c.sort_key_count('quickstart')", c.sort_key_count("quickstart"))
    scanner = c.get_scanner("quickstart", "day 10", "day 13", ScanOptions())
    while (row := scanner.get_next()) is not None:
        show("scanner.get_next()", row)
    scanner.close()
    show("c.multi_del('quickstart', {29 keys})", c.multi_del("quickstart", {*rows, "name"}))
    c.close()


def pythonic(client, table_name):
    print("\nThe Python-style API: values, iterators and typed errors.")
    table = client.table(table_name)
    key = "quickstart"
    show("table.set(key, 'name', 'Ada', ttl=60)", table.set(key, "name", "Ada", ttl=60))
    show("table.get(key, 'name'), table.get(key, 'no such key')", (table.get(key, "name"), table.get(key, "none")))
    show("table.incr(key, 'visits', 5)", table.incr(key, "visits", 5))
    try:
        table.incr(key, "visits", 2**63 - 1)
    except IntegerOverflow as error:
        show("table.incr(key, 'visits', 2**63 - 1)", type(error).__name__)
    first, second = (table.check_and_set(key, "lock", CheckType.NOT_EXIST, value=who) for who in ("me", "you"))
    show("table.check_and_set(key, 'lock', NOT_EXIST, ...), twice", (bool(first), bool(second)))
    moves = Mutations().put("state", "done").delete("lock")
    done = table.check_and_mutate(key, "lock", CheckType.BYTES_EQUAL, "me", mutations=moves)
    show("table.check_and_mutate(key, 'lock', ..., put and delete)", bool(done))
    rows = {f"day {n:02}": str(n * n) for n in range(1, 29)}
    table.multi_set(key, rows)
    squares = [int(value) for _, value in table.hash_scan(key, start="day 10", stop="day 13")]
    show("[int(v) for _, v in table.hash_scan(key, 'day 10', ...)]", squares)
    pairs = [("quickstart", "day 05"), ("quickstart", "none"), ("quickstart", "name")]
    show("table.batch_get([three keys])", table.batch_get(pairs))
    with client.deadline(0.5):
        show("with client.deadline(0.5): table.exist(key, 'name')", table.exist(key, "name"))
    show("table.multi_del(key, ...)", table.multi_del(key, [*rows, "name", "visits", "state"]))


def thousand(client, table_name):
    print(f"\n{GREENLETS:,} greenlets share one client; each makes {CALLS_EACH} calls and checks every answer.")
    table = client.table(table_name)
    table.warm_up()
    most = 0

    def work(number):
        key = f"quickstart {number}"
        for turn in range(CALLS_EACH // 2):
            mine = b"%d of %d" % (turn, number)
            table.set(key, "mark", mine)
            if table.get(key, "mark") != mine:
                raise SystemExit(f"greenlet {number} got another one's value")

    def watch():
        nonlocal most
        while True:
            most = max(most, sum(server["in_flight"] for server in client.stats()["servers"].values()))
            gevent.sleep(0.002)

    watcher = gevent.spawn(watch)
    begin = time.monotonic()
    for greenlet in [gevent.spawn(work, number) for number in range(GREENLETS)]:
        greenlet.get()
    seconds = time.monotonic() - begin
    watcher.kill()
    table.remove_many((f"quickstart {number}", "mark") for number in range(GREENLETS))
    calls = GREENLETS * CALLS_EACH
    connections = sum(server["state"] == "open" for server in client.stats()["servers"].values())
    print(f"  {calls:,} calls in {seconds:.1f} s: {calls / seconds:,.0f} calls/s, each answer the right one")
    print(f"  most in flight at once: {most:,}")
    print(f"  TCP connections: {connections}, one for each replica server and one for the meta server")


def main():
    parser = argparse.ArgumentParser(description="a tour of pegasus_green")
    parser.add_argument("--meta", help="meta servers of a real cluster, HOST:PORT[,HOST:PORT]")
    parser.add_argument("--table", default="temp", help="its table [%(default)s]")
    options = parser.parse_args()
    logging.basicConfig()  # prints WARNING and above: when init() returns False, the reason is in the log
    with ExitStack() as stack:
        if options.meta:
            metas = options.meta.split(",")
            print(f"Using the cluster at {options.meta}, table {options.table}.")
        else:
            from pegasus_green.onebox import Onebox

            box = stack.enter_context(Onebox(replicas=3, tables={options.table: 8}, process=True))
            metas = list(box.meta_addresses)
            print(f"Started an embedded cluster as a process of its own: meta server {metas[0]}, 3 replica servers.")
        documented(metas, options.table)
        with Client(metas) as client:
            pythonic(client, options.table)
            thousand(client, options.table)
    print("\nDone; everything is closed again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
