"""What pypegasus3 can do, against any cluster: `python peer_check.py META[,META] TABLE`, inside its own environment.

Known of this client: sort keys of the multi calls go through str(), so bytes would arrive as "b'..'"; get_scanner needs
a stop key (its next-bytes fails in Python 3); scans return str keys; its hash is right only for power-of-two tables.
"""

import sys
import traceback

from pypegasus.base.ttypes import error_types
from pypegasus.pgclient import Pegasus
from pypegasus.rrdb.ttypes import filter_type
from pypegasus.utils.tools import MultiGetOptions, ScanOptions
from twisted.internet import defer, reactor

OK, ABSENT, INCOMPLETE = (error_types[name].value for name in ("ERR_OK", "ERR_OBJECT_NOT_FOUND", "ERR_INCOMPLETE_DATA"))
done: list[str] = []


def equal(what, got, expected):
    done.append(what)
    if got != expected:
        raise AssertionError(f"{what}: expected {expected!r}, got {got!r}")


@defer.inlineCallbacks
def drain(scanner):
    rows = []
    row = yield scanner.get_next()
    while row is not None:
        rows.append(row)
        row = yield scanner.get_next()
    return rows


@defer.inlineCallbacks
def single_rows(client):
    binary = bytes(range(256))
    equal("set", (yield client.set("peer", "text", "value")), (OK, None))
    equal("get", (yield client.get("peer", "text")), (OK, b"value"))
    equal("set of bytes", (yield client.set(b"pe\x00er", b"\xff\x00", binary)), (OK, None))
    equal("get of bytes", (yield client.get(b"pe\x00er", b"\xff\x00")), (OK, binary))
    equal("set, no hash key", (yield client.set("", "only sort", "1")), (OK, None))
    equal("get, no hash key", (yield client.get("", "only sort")), (OK, b"1"))
    equal("get, absent", (yield client.get("peer", "absent")), (ABSENT, b""))
    equal("ttl, none", (yield client.ttl("peer", "text")), (OK, -1))
    equal("set with ttl", (yield client.set("peer", "ttl", "x", 100)), (OK, None))
    code, seconds = yield client.ttl("peer", "ttl")
    equal("ttl", (code, 97 <= seconds <= 101), (OK, True))
    equal("ttl, absent", (yield client.ttl("peer", "absent"))[0], ABSENT)
    equal("exist", (yield client.exist("peer", "text"))[0], OK)
    equal("remove", (yield client.remove("peer", "ttl")), (OK, None))
    equal("exist, removed", (yield client.exist("peer", "ttl"))[0], ABSENT)
    large = b"v" * 500_000
    equal("set, large", (yield client.set("peer", "large", large)), (OK, None))
    equal("get, large", (yield client.get("peer", "large")), (OK, large))
    equal("remove, large", (yield client.remove("peer", "large")), (OK, None))
    for hash_key, sort_key in (("peer", "text"), (b"pe\x00er", b"\xff\x00"), ("", "only sort")):
        equal("remove", (yield client.remove(hash_key, sort_key)), (OK, None))


@defer.inlineCallbacks
def many_rows(client):
    rows = {f"s{i:03}": f"v{i}" for i in range(150)}
    stored = {k.encode(): v.encode() for k, v in rows.items()}
    equal("multi_set", (yield client.multi_set("multi", rows)), (OK, None))
    some = {"s003", "s140", "absent"}
    equal("multi_get", (yield client.multi_get("multi", some)), (OK, {b"s003": b"v3", b"s140": b"v140"}))
    equal("multi_get, all", (yield client.multi_get("multi", None, 1000)), (OK, stored))
    code, part = yield client.multi_get("multi", None)  # 100 at most
    equal("multi_get, bounded", (code, part), (INCOMPLETE, dict(sorted(stored.items())[:100])))
    equal("get_sort_keys", (yield client.get_sort_keys("multi", 1000)), (OK, dict.fromkeys(stored, b"")))
    options = MultiGetOptions()
    expected = {k: v for k, v in stored.items() if b"s010" <= k < b"s020"}
    equal("multi_get_opt", (yield client.multi_get_opt("multi", "s010", "s020", options)), (OK, expected))
    options.sortkey_filter_type, options.sortkey_filter_pattern = filter_type.FT_MATCH_PREFIX, "s14"
    expected = {k: v for k, v in stored.items() if k.startswith(b"s14")}
    equal("multi_get_opt, prefix", (yield client.multi_get_opt("multi", "", "", options)), (OK, expected))
    options.reverse = True
    code, part = yield client.multi_get_opt("multi", "", "", options, 2)
    equal("multi_get_opt, reverse", part, {b"s149": b"v149", b"s148": b"v148"})
    equal("sort_key_count", (yield client.sort_key_count("multi")), (OK, 150))
    equal("multi_del", (yield client.multi_del("multi", {"s000", "s001"})), (OK, 2))
    equal("sort_key_count, after", (yield client.sort_key_count("multi")), (OK, 148))


@defer.inlineCallbacks
def scans(client):
    options = ScanOptions()
    options.batch_size = 10
    expected = [(("multi", f"s{i:03}"), f"v{i}".encode()) for i in range(20, 75)]
    equal("get_scanner", (yield drain(client.get_scanner("multi", "s020", "s075", options))), expected)
    options.start_inclusive, options.stop_inclusive = False, True
    expected = [(("multi", f"s{i:03}"), f"v{i}".encode()) for i in range(21, 76)]
    equal("get_scanner, other ends", (yield drain(client.get_scanner("multi", "s020", "s075", options))), expected)
    broken_off = client.get_scanner("multi", "s002", "s149", options)
    yield broken_off.get_next()
    broken_off.close()  # clear_scanner, which has no reply
    spread = {(f"h{i}", "s"): f"{i}".encode() for i in range(100)}
    for (hash_key, sort_key), value in spread.items():
        equal("set", (yield client.set(hash_key, sort_key, value)), (OK, None))
    table = {**spread, **{("multi", f"s{i:03}"): f"v{i}".encode() for i in range(2, 150)}}
    options = ScanOptions()
    options.batch_size = 7
    for wanted, count in ((1, 1), (3, 3), (100, 8)):
        scanners = client.get_unordered_scanners(wanted, options)
        equal("get_unordered_scanners", len(scanners), count)
        rows = yield defer.gatherResults([drain(scanner) for scanner in scanners])
        rows = [row for part in rows for row in part]
        equal("rows of the table", (len(rows), dict(rows)), (len(table), table))
    for hash_key, sort_key in spread:
        equal("remove", (yield client.remove(hash_key, sort_key)), (OK, None))
    equal("multi_del", (yield client.multi_del("multi", {f"s{i:03}" for i in range(2, 150)})), (OK, 148))


@defer.inlineCallbacks
def main(metas, table):
    client = Pegasus(metas, table)
    status = 1
    try:
        equal("init", (yield client.init()), True)
        for part in (single_rows, many_rows, scans):
            before = len(done)
            yield part(client)
            print(f"pypegasus3 {part.__name__:12} {len(done) - before:4} answers as expected", flush=True)
        missing = Pegasus(metas, "no_such_table")
        equal("init, no such table", (yield missing.init()), None)
        missing.close()
        print(f"pypegasus3: all {len(done)} answers as expected")
        status = 0
    except Exception:  # whatever it is, it is the result
        traceback.print_exc()
    finally:
        client.close()
        reactor.callLater(0.1, reactor.stop)
    return status


if __name__ == "__main__":
    results: list[int] = []
    reactor.callWhenRunning(lambda: main(sys.argv[1].split(","), sys.argv[2]).addCallback(results.append))
    reactor.callLater(90, lambda: reactor.running and reactor.stop())
    reactor.run()
    sys.exit(results[0] if results else "pypegasus3: no end within 90 s")
