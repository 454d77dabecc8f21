"""Test the documented API: results on success, on errors, before init and after close; scanners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import (
    MultiGetOptions,
    Pegasus,
    PegasusError,
    PegasusScanner,
    ScanOptions,
    error_types,
    filter_type,
)
from pegasus_green.keys import Key
from tests.conftest import Cluster
from tests.waiting import Stopwatch

OK = error_types.ERR_OK.value
ABSENT = error_types.ERR_OBJECT_NOT_FOUND.value
NOT_ACTIVE = error_types.ERR_SERVICE_NOT_ACTIVE.value
INCOMPLETE = error_types.ERR_INCOMPLETE_DATA.value
INVALID_PARAMETERS = error_types.ERR_INVALID_PARAMETERS.value

# Every operation with valid arguments, and its empty result.
CALLS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "ttl": (("h", "s"), 0),
    "exist": (("h", "s"), None),
    "set": (("h", "s", "v"), None),
    "multi_set": (("h", {"s": "v"}), None),
    "get": (("h", "s"), b""),
    "multi_get": (("h", {"s"}), {}),
    "multi_get_opt": (("h", "", "", MultiGetOptions()), {}),
    "remove": (("h", "s"), None),
    "multi_del": (("h", {"s"}), 0),
    "sort_key_count": (("h",), 0),
    "get_sort_keys": (("h",), {}),
}
WRITES = ("set", "multi_set", "remove", "multi_del")
MULTI = ("multi_set", "multi_get", "multi_get_opt", "multi_del", "sort_key_count", "get_sort_keys")


@pytest.fixture
def pegasus(cluster: Cluster) -> Iterator[Pegasus]:
    client = Pegasus(cluster.metas, cluster.table)
    assert client.init() is True
    yield client
    client.close()


@pytest.fixture
def rows(pegasus: Pegasus, hash_key: bytes) -> Iterator[dict[bytes, bytes]]:
    stored = {b"s%03d" % i: b"v%d" % i for i in range(150)}
    assert pegasus.multi_set(hash_key, stored) == (OK, None)
    yield stored
    pegasus.multi_del(hash_key, set(stored))


def drain(scanner: PegasusScanner) -> list[tuple[tuple[bytes, bytes], bytes]]:
    found = []
    while (row := scanner.get_next()) is not None:
        found.append(row)
    scanner.close()
    return found


# --------------------------------------------------------------------------------------------- before init, after close
@pytest.mark.parametrize("name", CALLS)
def test_not_active_before_init_and_after_close(cluster: Cluster, name: str) -> None:
    arguments, empty = CALLS[name]
    client = Pegasus(cluster.metas, cluster.table)
    assert getattr(client, name)(*arguments) == (NOT_ACTIVE, empty)
    assert client.init()
    client.close()
    client.close()
    assert getattr(client, name)(*arguments) == (NOT_ACTIVE, empty)


@pytest.mark.parametrize(("name", "timeout"), [(b"\xff", 2000), ("temp", 10**400)])
def test_init_with_invalid_arguments_returns_false(cluster: Cluster, name: Any, timeout: int) -> None:
    client = Pegasus(cluster.metas, name, timeout)
    assert client.init() is False
    assert client.get("h", "s") == (NOT_ACTIVE, b"")


@pytest.mark.onebox_only
def test_a_scanner_closed_while_a_caller_waits_raises(
    cluster: Cluster, pegasus: Pegasus, hash_key: bytes, rows: dict[bytes, bytes]
) -> None:
    def code() -> str:
        with pytest.raises(PegasusError) as caught:
            scanner.get_next()
        return caught.value.code

    options = ScanOptions()
    options.timeout_millis = 1000
    scanner = pegasus.get_scanner(hash_key, "", "", options)
    fault = cluster.box.fault("drop", rpc="get_scanner")
    try:
        # The first caller asks the server; the second waits for the same reply.
        waiting = [gevent.spawn(code), gevent.spawn(code)]
        gevent.sleep(0.05)
        scanner.close()
        assert [job.get(timeout=10) for job in waiting] == ["ERR_TIMEOUT", "ERR_SERVICE_NOT_ACTIVE"]
        for _ in range(2):
            with pytest.raises(PegasusError, match="the scanner was closed"):
                scanner.get_next()
    finally:
        fault.remove()


def test_get_scanner_of_a_client_that_is_not_ready_raises(cluster: Cluster) -> None:
    client = Pegasus(cluster.metas, cluster.table)
    for _ in range(2):
        for scanner in [
            client.get_scanner("h", "", "", ScanOptions()),
            *client.get_unordered_scanners(3, ScanOptions()),
        ]:
            with pytest.raises(PegasusError):
                scanner.get_next()
            scanner.close()
        assert len(client.get_unordered_scanners(3, ScanOptions())) >= 1, "no scanners would look like an empty table"
        assert client.init()
        client.close()


def test_close_returns_none_and_init_opens_again(cluster: Cluster, hash_key: bytes) -> None:
    client = Pegasus(cluster.metas, cluster.table)
    closed: Any = client.close
    assert closed() is None
    for _ in range(2):
        assert client.init() is True
        assert client.init() is True
        assert client.get(hash_key, "s") == (ABSENT, b"")
        assert closed() is None


def test_a_table_name_in_bytes(cluster: Cluster, hash_key: bytes) -> None:
    client = Pegasus(cluster.metas, cluster.table.encode())
    assert client.init()
    assert client.exist(hash_key, "s") == (ABSENT, None)
    client.close()


BAD = {
    "no meta server": (None, "temp", "no meta server"),
    "no table": (["127.0.0.1:34601"], "", "table name"),
    "no port": (["127.0.0.1:port"], "temp", "port"),
    "no number": ([7], "temp", "meta server"),
}


@pytest.mark.parametrize(("metas", "table", "why"), BAD.values(), ids=BAD.keys())
def test_init_with_an_invalid_address_returns_false_and_logs(
    metas: Any, table: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = Pegasus(metas, table)
    assert not client.init()
    assert why in caplog.text
    assert client.get("h", "s") == (NOT_ACTIVE, b"")


def test_init_with_a_missing_table_returns_false_and_logs(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    client = Pegasus(cluster.metas, "no_such_table_here")
    assert client.init() is False
    assert "no_such_table_here" in caplog.text
    assert "does not exist" in caplog.text
    assert client.get("h", "s") == (NOT_ACTIVE, b"")


def test_init_without_a_meta_server_returns_false_in_time_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    client = Pegasus(["127.0.0.1:1", "127.0.0.1:2"], "temp", 300)
    watch = Stopwatch()
    assert client.init() is False
    assert watch.elapsed > 0.2
    assert watch.seconds < 2.0
    assert "127.0.0.1:1" in caplog.text
    assert "does not exist" not in caplog.text


def test_close_during_init_closes_the_client(cluster: Cluster) -> None:
    client = Pegasus(cluster.metas, cluster.table)
    started = gevent.spawn(client.init)
    gevent.sleep(0)
    client.close()
    assert started.get(timeout=5) is False
    assert client.get("h", "s") == (NOT_ACTIVE, b"")


def test_several_greenlets_call_init(cluster: Cluster, hash_key: bytes) -> None:
    client = Pegasus(cluster.metas, cluster.table)
    greenlets = [gevent.spawn(client.init) for _ in range(5)]
    assert [g.get(timeout=5) for g in greenlets] == [True] * 5
    assert client.get(hash_key, "s") == (ABSENT, b"")
    client.close()


# -------------------------------------------------------------------------------------------------------- one row, rows
def test_set_get_exist_ttl_remove(pegasus: Pegasus, hash_key: bytes) -> None:
    assert pegasus.get(hash_key, "s") == (ABSENT, b"")
    assert pegasus.exist(hash_key, "s") == (ABSENT, None)
    assert pegasus.ttl(hash_key, "s") == (ABSENT, 0)
    assert pegasus.set(hash_key, "s", "value", 0, 500) == (OK, None)
    assert pegasus.get(hash_key, "s", 500) == (OK, b"value")
    assert pegasus.exist(hash_key, "s", 500) == (OK, None)
    assert pegasus.ttl(hash_key, "s", 500) == (OK, -1)
    assert pegasus.set(hash_key, "s", b"other", 100) == (OK, None)
    code, left = pegasus.ttl(hash_key, "s")
    assert (code, type(left)) == (OK, int)
    assert 95 <= left <= 101
    assert pegasus.set(hash_key, "s", "") == (OK, None)
    assert pegasus.get(hash_key, "s") == (OK, b"")
    assert pegasus.ttl(hash_key, "s") == (OK, -1)
    assert pegasus.remove(hash_key, "s", 500) == (OK, None)
    assert pegasus.remove(hash_key, "s") == (OK, None)
    assert pegasus.get(hash_key, "s") == (ABSENT, b"")


def test_codes_are_plain_ints(pegasus: Pegasus, hash_key: bytes) -> None:
    for name, (arguments, _) in CALLS.items():
        answer = getattr(pegasus, name)(hash_key, *arguments[1:])
        assert type(answer) is tuple
        assert len(answer) == 2
        assert type(answer[0]) is int
    pegasus.remove(hash_key, "s")


def test_text_and_bytes_are_the_same_key(pegasus: Pegasus, hash_key: bytes) -> None:
    assert pegasus.set(hash_key.decode(), "schlüssel", "wört") == (OK, None)
    assert pegasus.get(hash_key, "schlüssel".encode()) == (OK, "wört".encode())
    binary = bytes(range(256))
    assert pegasus.set(hash_key, binary, binary) == (OK, None)
    assert pegasus.multi_get(hash_key, [binary]) == (OK, {binary: binary})
    assert pegasus.multi_del(hash_key, [binary, "schlüssel"]) == (OK, 2)


def test_an_empty_hash_key_where_it_is_allowed(pegasus: Pegasus, hash_key: bytes) -> None:
    assert pegasus.set("", hash_key, "v") == (OK, None)
    assert pegasus.get(b"", hash_key) == (OK, b"v")
    assert pegasus.ttl("", hash_key) == (OK, -1)
    assert pegasus.exist("", hash_key) == (OK, None)
    assert pegasus.remove("", hash_key) == (OK, None)


def test_multi_get(pegasus: Pegasus, hash_key: bytes, rows: dict[bytes, bytes]) -> None:
    some = {b"s003": b"v3", b"s140": b"v140"}
    some_keys: list[Any] = [{"s003", "s140", "absent"}, [b"s140", "s003"], ("s003", "s140"), iter(["s003", b"s140"])]
    for keys in [*some_keys, dict(some)]:
        assert pegasus.multi_get(hash_key, keys) == (OK, some)
    first = dict(list(rows.items())[:100])
    no_keys: list[Any] = [None, set(), [], ()]
    for everything in no_keys:
        assert pegasus.multi_get(hash_key, everything) == (INCOMPLETE, first)
    for no_limit in (0, -1):
        assert pegasus.multi_get(hash_key, None, no_limit, no_limit) == (OK, rows)
    assert pegasus.multi_get(hash_key, None, 1000, 1000000, True, 500) == (OK, dict.fromkeys(rows, b""))
    code, part = pegasus.multi_get(hash_key, None, 1000, 50)
    assert code == INCOMPLETE
    assert 1 <= len(part) <= 10
    assert pegasus.multi_get(hash_key, {"s001", "s002", "s003"}, 2)[0] == INCOMPLETE
    assert pegasus.multi_get(hash_key, {"absent"}) == (OK, {})
    assert pegasus.multi_get(hash_key + b"none", None) == (OK, {})


def test_multi_get_has_the_row_with_the_empty_sort_key(pegasus: Pegasus, hash_key: bytes) -> None:
    assert pegasus.multi_set(hash_key, {"": "none", "a": "b"}) == (OK, None)
    assert pegasus.multi_get(hash_key, None) == (OK, {b"": b"none", b"a": b"b"})
    assert pegasus.get_sort_keys(hash_key) == (OK, {b"": b"", b"a": b""})
    assert pegasus.multi_get_opt(hash_key, "", "", MultiGetOptions()) == (OK, {b"": b"none", b"a": b"b"})
    assert drain(pegasus.get_scanner(hash_key, "", "", ScanOptions())) == [
        ((hash_key, b""), b"none"),
        ((hash_key, b"a"), b"b"),
    ]
    assert pegasus.multi_del(hash_key, {"", "a"}) == (OK, 2)


def between(rows: dict[bytes, bytes], start: bytes, stop: bytes) -> dict[bytes, bytes]:
    return {key: value for key, value in rows.items() if start <= key < stop}


def test_multi_get_opt(pegasus: Pegasus, hash_key: bytes, rows: dict[bytes, bytes]) -> None:
    def get(start: str, stop: str, *limits: int, **changes: Any) -> tuple[int, dict[bytes, bytes]]:
        options = MultiGetOptions()
        for name, value in changes.items():
            setattr(options, name, value)
        before = dict(vars(options))
        answer = pegasus.multi_get_opt(hash_key, start, stop, options, *limits)
        assert vars(options) == before, "the caller's options are not to be changed"
        return answer

    assert get("s010", "s020") == (OK, between(rows, b"s010", b"s020"))
    assert get("s010", "s020", start_inclusive=False, stop_inclusive=True) == (OK, between(rows, b"s010\0", b"s020\0"))
    assert get("s140", "") == (OK, between(rows, b"s140", b"t"))
    assert get("", "s003") == (OK, between(rows, b"", b"s003"))
    assert get("s020", "s010") == (OK, {})
    assert get("s010", "s012", no_value=True) == (OK, {b"s010": b"", b"s011": b""})
    for kind, pattern, wanted in (
        (filter_type.FT_MATCH_PREFIX, "s14", lambda key: key.startswith(b"s14")),
        (filter_type.FT_MATCH_POSTFIX, b"9", lambda key: key.endswith(b"9")),
        (filter_type.FT_MATCH_ANYWHERE, "04", lambda key: b"04" in key),
        (filter_type.FT_NO_FILTER, "ignored", lambda key: key < b"s140"),
    ):
        expected = {key: value for key, value in rows.items() if wanted(key)}
        stop = "s140" if kind == filter_type.FT_NO_FILTER else ""
        assert get("", stop, 1000, sortkey_filter_type=kind, sortkey_filter_pattern=pattern) == (OK, expected)
    assert get("", "", 2, reverse=True) == (INCOMPLETE, {b"s148": b"v148", b"s149": b"v149"})
    pages, stop = [], ""
    while True:
        code, page = get("", stop, 40, reverse=True)
        pages.append(page)
        if code == OK:
            break
        assert code == INCOMPLETE
        stop = min(page).decode()
    assert [len(page) for page in pages] == [40, 40, 40, 30]
    assert {key: value for page in pages for key, value in page.items()} == rows


def test_multi_del_and_counts(pegasus: Pegasus, hash_key: bytes, rows: dict[bytes, bytes]) -> None:
    assert pegasus.sort_key_count(hash_key, 500) == (OK, 150)
    assert pegasus.multi_del(hash_key, {"s000", b"s001", "absent"}, 500) == (OK, 3)
    assert pegasus.sort_key_count(hash_key) == (OK, 148)
    assert pegasus.sort_key_count(hash_key + b"none") == (OK, 0)
    assert pegasus.get_sort_keys(hash_key, 1000) == (OK, {key: b"" for key in rows if key > b"s001"})
    assert pegasus.get_sort_keys(hash_key, 3) == (INCOMPLETE, dict.fromkeys([b"s002", b"s003", b"s004"], b""))


def test_multi_get_without_limits_is_limited_by_the_server(pegasus: Pegasus, hash_key: bytes) -> None:
    stored = {b"s%05d" % i: b"v" for i in range(3500)}
    assert pegasus.multi_set(hash_key, stored) == (OK, None)
    code, found = pegasus.multi_get(hash_key, None, 0, 0)
    assert code == INCOMPLETE
    assert 1 <= len(found) <= 3000
    assert found.items() <= stored.items()
    assert len(drain(pegasus.get_scanner(hash_key, "", "", ScanOptions()))) == 3500
    assert pegasus.multi_del(hash_key, stored) == (OK, 3500)


@pytest.mark.onebox_only
def test_multi_get_is_incomplete_when_the_server_reaches_its_time_limit(cluster: Cluster, hash_key: bytes) -> None:
    cluster.box.create_table("hurried", 2, envs={"replica.rocksdb_iteration_threshold_time_ms": "1"})
    client = Pegasus(cluster.metas, "hurried")
    assert client.init()
    stored = {b"s%05d" % i: b"v" for i in range(1000)}
    assert client.multi_set(hash_key, stored) == (OK, None)
    assert client.sort_key_count(hash_key) == (INCOMPLETE, 0)  # the server answers -1
    code, found = client.multi_get(hash_key, None, 0, 0)
    assert code == INCOMPLETE
    assert 0 < len(found) < 1000
    assert len(drain(client.get_scanner(hash_key, "", "", ScanOptions()))) == 1000
    client.close()
    cluster.box.drop_table("hurried")


def test_multi_set_with_ttl(pegasus: Pegasus, hash_key: bytes) -> None:
    values: dict[bytes | str, Key] = {"a": "1", b"b": b"2"}
    assert pegasus.multi_set(hash_key, values, 100, 500) == (OK, None)
    assert pegasus.multi_get(hash_key, None) == (OK, {b"a": b"1", b"b": b"2"})
    for sort_key in "ab":
        code, left = pegasus.ttl(hash_key, sort_key)
        assert code == OK
        assert 95 <= left <= 101
    assert pegasus.multi_del(hash_key, ["a", "b"]) == (OK, 2)


def test_multi_set_and_multi_del_of_nothing(pegasus: Pegasus, hash_key: bytes) -> None:
    assert pegasus.multi_set(hash_key, {}) == (INVALID_PARAMETERS, None)
    no_keys: list[Any] = [None, set(), []]
    for nothing in no_keys:
        assert pegasus.multi_del(hash_key, nothing) == (INVALID_PARAMETERS, 0)


# -------------------------------------------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize("name", MULTI)
def test_an_empty_hash_key_is_refused(pegasus: Pegasus, name: str) -> None:
    with pytest.raises(ValueError, match="hash_key"):
        getattr(pegasus, name)("", *CALLS[name][0][1:])


def test_scanner_without_a_hash_key_is_refused(pegasus: Pegasus) -> None:
    with pytest.raises(ValueError, match="hash_key"):
        pegasus.get_scanner("", "", "", ScanOptions())


@pytest.mark.parametrize("name", CALLS)
def test_arguments_that_cannot_be_sent_raise(pegasus: Pegasus, name: str) -> None:
    call, (_, *rest) = getattr(pegasus, name), CALLS[name][0]
    with pytest.raises(ValueError, match="65534"):
        call(b"h" * 65535, *rest)
    with pytest.raises(ValueError, match="hash_key"):
        call(7, *rest)
    with pytest.raises(ValueError, match="timeout"):
        call("h", *rest, timeout="soon")


def test_a_write_that_is_too_large_returns_an_error_code(pegasus: Pegasus, hash_key: bytes) -> None:
    too_large = error_types.ERR_INVALID_DATA.value
    assert pegasus.set(hash_key, "s", b"x" * (1024 * 1024)) == (too_large, None)
    assert pegasus.multi_set(hash_key, {b"%d" % i: b"x" * 300_000 for i in range(4)}) == (too_large, None)
    assert pegasus.multi_del(hash_key, {b"%d" % i + b"x" * 300_000 for i in range(4)}) == (too_large, 0)
    assert pegasus.sort_key_count(hash_key) == (OK, 0)
    assert pegasus.set(hash_key, "s", b"x" * (1000 * 1024)) == (OK, None)
    assert pegasus.remove(hash_key, "s") == (OK, None)


# ------------------------------------------------------------------------------------------------------------- scanners
def test_get_scanner(pegasus: Pegasus, hash_key: bytes, rows: dict[bytes, bytes]) -> None:
    def scan(start: str, stop: str, **changes: Any) -> dict[bytes, bytes]:
        options = ScanOptions()
        options.batch_size = 7
        for name, value in changes.items():
            setattr(options, name, value)
        before = dict(vars(options))
        found = drain(pegasus.get_scanner(hash_key, start, stop, options))
        assert vars(options) == before, "the caller's options are not to be changed"
        assert all(key[0] == hash_key for key, _ in found)
        in_order = [key[1] for key, _ in found]
        assert in_order == sorted(set(in_order))
        return {key[1]: value for key, value in found}

    assert scan("", "") == rows
    assert scan("", "", batch_size=1000) == rows
    assert scan("s010", "s020") == between(rows, b"s010", b"s020")
    assert scan("s010", "s020", start_inclusive=False, stop_inclusive=True) == between(rows, b"s010\0", b"s020\0")
    assert scan("s020", "s010") == scan("s020", "s020") == {}
    assert scan("s020", "s020", stop_inclusive=True) == {b"s020": b"v20"}
    for kind, pattern, wanted in (
        (filter_type.FT_MATCH_PREFIX, "s14", lambda key: key.startswith(b"s14")),
        (filter_type.FT_MATCH_POSTFIX, b"9", lambda key: key.endswith(b"9")),
        (filter_type.FT_MATCH_ANYWHERE, "04", lambda key: b"04" in key),
    ):
        expected = {key: value for key, value in rows.items() if wanted(key)}
        assert scan("", "", sortkey_filter_type=kind, sortkey_filter_pattern=pattern) == expected


def test_get_next_after_the_end_and_after_close(pegasus: Pegasus, hash_key: bytes, rows: dict[bytes, bytes]) -> None:
    scanner = pegasus.get_scanner(hash_key, "s148", "", ScanOptions())
    assert scanner.get_next() == ((hash_key, b"s148"), b"v148")
    assert scanner.get_next() == ((hash_key, b"s149"), b"v149")
    for _ in range(3):
        assert scanner.get_next() is None
    closed: Any = scanner.close
    assert closed() is None
    assert closed() is None
    early = pegasus.get_scanner(hash_key, "", "", ScanOptions())
    assert early.get_next() == ((hash_key, b"s000"), b"v0")
    early.close()
    with pytest.raises(PegasusError):  # None would say that there are no more rows
        early.get_next()


def test_a_scanner_of_a_hash_key_refuses_a_hash_key_filter(pegasus: Pegasus, hash_key: bytes) -> None:
    options = ScanOptions()
    options.hashkey_filter_type, options.hashkey_filter_pattern = filter_type.FT_MATCH_PREFIX, "h"
    with pytest.raises(ValueError, match="hash"):  # it can crash a real server
        pegasus.get_scanner(hash_key, "", "", options)


@pytest.fixture
def spread(pegasus: Pegasus, hash_key: bytes) -> Iterator[dict[tuple[bytes, bytes], bytes]]:
    stored = {}
    for i in range(60):
        sort_keys = {b"s%d" % j: b"%d.%d" % (i, j) for j in range(3)}
        assert pegasus.multi_set(hash_key + b"%d" % i, sort_keys) == (OK, None)
        stored.update({(hash_key + b"%d" % i, sort_key): value for sort_key, value in sort_keys.items()})
    yield stored
    for i in range(60):
        pegasus.multi_del(hash_key + b"%d" % i, {"s0", "s1", "s2"})


@pytest.mark.parametrize("count", [1, 3, 8, 100])
def test_unordered_scanners_cover_the_table_once(
    pegasus: Pegasus, hash_key: bytes, spread: dict[tuple[bytes, bytes], bytes], count: int
) -> None:
    options = ScanOptions()
    options.batch_size = 10
    options.hashkey_filter_type, options.hashkey_filter_pattern = filter_type.FT_MATCH_PREFIX, hash_key
    # A whole table has no range, so these options have no effect.
    options.start_inclusive, options.stop_inclusive = False, True
    before = dict(vars(options))
    scanners = pegasus.get_unordered_scanners(count, options)
    assert type(scanners) is list
    assert 1 <= len(scanners) <= count
    parts = [greenlet.get(timeout=30) for greenlet in [gevent.spawn(drain, scanner) for scanner in scanners]]
    assert vars(options) == before
    found = [row for part in parts for row in part]
    assert sorted(found) == sorted(spread.items())
    for part in parts:
        seen: dict[bytes, bytes] = {}
        for (row_hash_key, sort_key), _ in part:
            assert sort_key > seen.get(row_hash_key, b""), "sort keys ascend within a hash key"
            seen[row_hash_key] = sort_key


def test_zero_unordered_scanners_give_an_empty_list(pegasus: Pegasus) -> None:
    assert pegasus.get_unordered_scanners(0, ScanOptions()) == []
    assert pegasus.get_unordered_scanners(-1, ScanOptions()) == []


# ----------------------------------------------------------------------------------- what the cluster answers, is coded
@pytest.mark.onebox_only
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("frame_error", "code"),
    [
        ("ERR_BUSY", "ERR_BUSY"),
        ("ERR_SPLITTING", "ERR_SPLITTING"),
        ("ERR_NOT_ENOUGH_MEMBER", "ERR_NOT_ENOUGH_MEMBER"),
        ("ERR_OBJECT_NOT_FOUND", "ERR_TIMEOUT"),
        ("ERR_INVALID_STATE", "ERR_TIMEOUT"),
        ("ERR_ACL_DENY", "ERR_ACL_DENY"),
        ("ERR_INVALID_DATA", "ERR_INVALID_DATA"),
        ("ERR_NO_SUCH_NAME_YET", "ERR_UNKNOWN"),
    ],
)
def test_each_frame_error_returns_its_code(
    cluster: Cluster, pegasus: Pegasus, name: str, frame_error: str, code: str
) -> None:
    arguments, empty = CALLS[name]
    fault = cluster.box.fault("error", rpc="data", error=frame_error)
    try:
        for _ in range(5):
            answer = getattr(pegasus, name)(*arguments, timeout=60)
            # The last attempt may have no time left for its answer, which is a timeout in one of fifty calls.
            if answer[0] != error_types.ERR_TIMEOUT or code == "ERR_TIMEOUT":
                break
        assert answer == (error_types[code].value, empty)
        assert fault.hits
    finally:
        fault.remove()


@pytest.mark.onebox_only
@pytest.mark.parametrize("name", CALLS)
def test_a_reply_without_a_body_is_an_error(cluster: Cluster, pegasus: Pegasus, name: str) -> None:
    arguments, empty = CALLS[name]
    fault = cluster.box.fault("no_body", rpc="data")
    try:
        assert getattr(pegasus, name)(*arguments) == (error_types.ERR_REPLICATION_FAILURE.value, empty)
    finally:
        fault.remove()


@pytest.mark.onebox_only
@pytest.mark.parametrize("name", CALLS)
def test_a_missing_reply_is_a_timeout_and_the_timeout_is_in_milliseconds(
    cluster: Cluster, pegasus: Pegasus, name: str
) -> None:
    arguments, empty = CALLS[name]
    fault = cluster.box.fault("drop", rpc="data")
    try:
        watch = Stopwatch()
        assert getattr(pegasus, name)(*arguments, timeout=150) == (error_types.ERR_TIMEOUT.value, empty)
        assert watch.elapsed > 0.14
        assert watch.seconds < 1.5
    finally:
        fault.remove()


@pytest.mark.onebox_only
def test_a_timeout_of_zero_or_less_means_the_timeout_of_the_client(cluster: Cluster) -> None:
    client = Pegasus(cluster.metas, cluster.table, 200)
    assert client.init()
    fault = cluster.box.fault("drop", rpc="get")
    try:
        for timeout in (0, -5):
            watch = Stopwatch()
            assert client.get("h", "s", timeout) == (error_types.ERR_TIMEOUT.value, b"")
            assert watch.elapsed > 0.15
            assert watch.seconds < 1.0
    finally:
        fault.remove()
        client.close()


@pytest.mark.onebox_only
def test_calls_are_repeated_after_a_lost_connection_if_that_is_safe(
    cluster: Cluster, pegasus: Pegasus, hash_key: bytes
) -> None:
    for name in WRITES:
        with_key = (hash_key, *CALLS[name][0][1:])
        fault = cluster.box.fault("cut", rpc="write", when="after", count=1)
        assert getattr(pegasus, name)(*with_key)[0] == OK
        assert fault.hits == 1


@pytest.mark.onebox_only
def test_a_dropped_table_returns_app_not_exist(cluster: Cluster) -> None:
    cluster.box.create_table("short_lived", 4)
    client = Pegasus(cluster.metas, "short_lived")
    assert client.init()
    assert client.set("h", "s", "v") == (OK, None)
    cluster.box.drop_table("short_lived")
    for name in ("get", "set", "multi_get", "sort_key_count"):  # each waits for an answer of the meta server
        arguments, empty = CALLS[name]
        assert getattr(client, name)(*arguments) == (error_types.ERR_APP_NOT_EXIST.value, empty)
    with pytest.raises(PegasusError):
        client.get_scanner("h", "", "", ScanOptions()).get_next()
    client.close()


@pytest.mark.onebox_only
def test_get_next_raises_and_then_continues_after_the_last_row(
    cluster: Cluster, pegasus: Pegasus, hash_key: bytes, rows: dict[bytes, bytes]
) -> None:
    options = ScanOptions()
    options.batch_size, options.timeout_millis = 10, 800
    scanner = pegasus.get_scanner(hash_key, "", "", options)
    found = [scanner.get_next() for _ in range(10)]
    fault = cluster.box.fault("drop", rpc=["scan", "get_scanner"])
    watch = Stopwatch()
    with pytest.raises(PegasusError) as raised:
        scanner.get_next()
    assert watch.elapsed > 0.7, "timeout_millis bounds a batch"
    assert watch.seconds < 1.8, "timeout_millis bounds a batch"
    assert raised.value.code == "ERR_TIMEOUT"
    with pytest.raises(PegasusError):
        scanner.get_next()
    fault.remove()
    found += drain(scanner)
    assert found == [((hash_key, key), value) for key, value in rows.items()]


@pytest.mark.onebox_only
def test_unordered_scanners_continue_after_an_error(
    cluster: Cluster, pegasus: Pegasus, hash_key: bytes, spread: dict[tuple[bytes, bytes], bytes]
) -> None:
    options = ScanOptions()
    options.batch_size, options.timeout_millis = 3, 100
    options.hashkey_filter_type, options.hashkey_filter_pattern = filter_type.FT_MATCH_PREFIX, hash_key
    found, errors = [], 0
    for scanner in pegasus.get_unordered_scanners(4, options):
        found += [scanner.get_next() for _ in range(5)]
        fault = cluster.box.fault("drop", rpc=["scan", "get_scanner"])
        for _ in range(5):  # the rows of the previous batch are still delivered
            try:
                found.append(scanner.get_next())
            except PegasusError:
                errors += 1
                break
        fault.remove()
        cluster.box.drop_scan_contexts()
        found += drain(scanner)
    assert errors == 4
    assert sorted(found) == sorted(spread.items())  # type: ignore[type-var]


@pytest.mark.onebox_only
def test_close_ends_calls_in_flight_with_an_error_code(cluster: Cluster, pegasus: Pegasus) -> None:
    fault = cluster.box.fault("drop", rpc="get")
    waiting = [gevent.spawn(pegasus.get, "h", "s") for _ in range(3)]
    gevent.sleep(0.05)
    pegasus.close()
    assert [greenlet.get(timeout=1.5) for greenlet in waiting] == [(NOT_ACTIVE, b"")] * 3
    fault.remove()


@pytest.mark.onebox_only
def test_init_returns_true_while_one_replica_server_is_dead(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    # The meta server has not noticed yet, so the routes still name the dead server.
    cluster.box.configure(failover_delay=60.0)
    cluster.box.kill(0)
    try:
        client = Pegasus(cluster.metas, cluster.table)
        assert client.init() is True
        assert "cannot be reached" in caplog.text
        client.close()
    finally:
        cluster.box.restart(0)
        cluster.box.configure(failover_delay=0.3)


# ------------------------------------------------------------------------------------------------------------ greenlets
@pytest.mark.onebox_only
def test_a_timeout_of_the_application_passes_through(cluster: Cluster, pegasus: Pegasus, hash_key: bytes) -> None:
    fault = cluster.box.fault("drop", rpc="get")
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        pegasus.get(hash_key, "s")
    fault.remove()
    assert pegasus.get(hash_key, "s") == (ABSENT, b"")


def test_many_greenlets_share_one_client(pegasus: Pegasus, hash_key: bytes) -> None:
    def work(i: int) -> None:
        for j in range(10):
            assert pegasus.set(hash_key, b"%d" % i, b"%d.%d" % (i, j)) == (OK, None)
            assert pegasus.get(hash_key, b"%d" % i) == (OK, b"%d.%d" % (i, j))

    greenlets = [gevent.spawn(work, i) for i in range(100)]
    for greenlet in greenlets:
        greenlet.get(timeout=30)
    assert pegasus.multi_del(hash_key, [b"%d" % i for i in range(100)]) == (OK, 100)
