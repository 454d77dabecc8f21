"""Test the parts of scans without I/O: bounds, parts over splits, the ledger of delivered rows, tokens."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter, deque
from itertools import count, islice
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pegasus_green.cluster.routing import Route, RoutingTable, build
from pegasus_green.errors import InvalidArgument, MetaError
from pegasus_green.keys import encode_key, next_key, partition_hash
from pegasus_green.model import Filter, FilterType
from pegasus_green.protocol.meta import PartitionConfiguration, QueryCfgResponse
from pegasus_green.protocol.rpc import GET_SCANNER
from pegasus_green.scanner import Ledger, Part, Query, Token, decode, plan, scan_hash

KEY = st.binary(max_size=4)
FILTERS = st.builds(Filter, st.sampled_from(FilterType), KEY)


def routes(count: int, waiting: set[int] = frozenset()) -> RoutingTable:  # type: ignore[assignment]
    return RoutingTable(1, [Route(1, i, -1 if i in waiting else 3, "h:1", None, (), {}) for i in range(count)])


@pytest.mark.parametrize("indexes", [[0, -1], [0, 0], [0, 1, 1], [0, 2], [0], [0, 1, -1], []])
def test_routes_without_every_partition_exactly_once_are_refused(indexes: list[int]) -> None:
    partitions = [PartitionConfiguration(pid=(index << 32) | 1) for index in indexes]
    reply = QueryCfgResponse(app_id=1, partition_count=2, partitions=partitions)
    with pytest.raises(MetaError, match="but the table has 2"):
        build(reply, lambda _address, _other: None, None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_the_route_of_a_hash_for_any_number_of_partitions(count: int) -> None:
    table = routes(count)
    hashes = [partition_hash(b"%d" % number) for number in range(100)]
    assert [table.target(one).index for one in hashes] == [one % count for one in hashes]


# --------------------------------------------------------------------------------------------------------------- bounds
@given(KEY, KEY, KEY, st.booleans(), st.booleans(), KEY, st.binary(min_size=1, max_size=3))
def test_bounds_hold_exactly_the_wanted_keys(
    start: bytes, stop: bytes, prefix: bytes, start_inclusive: bool, stop_inclusive: bool, key: bytes, hash_key: bytes
) -> None:
    query = Query(hash_key, start, stop, start_inclusive, stop_inclusive, prefix)
    wanted = (
        (key > start or (start_inclusive and key == start))
        and (not stop or key < stop or (stop_inclusive and key == stop))
        and key.startswith(prefix)
    )
    encoded = encode_key(hash_key, key)
    bounds = query.range
    inside = (encoded > bounds.lower or (bounds.lower_inclusive and encoded == bounds.lower)) and (
        encoded < bounds.upper or (bounds.upper_inclusive and encoded == bounds.upper)
    )
    assert inside == wanted
    assert not (inside and bounds.is_empty)
    by_filter = Query(
        hash_key, start, stop, start_inclusive, stop_inclusive, b"", sort_key_filter=Filter.prefix(prefix)
    )
    assert by_filter.range == bounds


@given(st.binary(min_size=1, max_size=3), KEY, KEY)
def test_the_rest_of_a_range_after_a_key(hash_key: bytes, after: bytes, key: bytes) -> None:
    bounds = Query(hash_key).range.behind(encode_key(hash_key, after))
    assert (encode_key(hash_key, key) > bounds.lower) == (key > after)
    assert not bounds.lower_inclusive
    assert bounds.behind(None) == bounds


def test_scan_requests_have_the_bounds_and_filters() -> None:
    whole: Any = GET_SCANNER.decode_argument(Query(with_ttl=True).open(None, 5000))
    assert (whole.start_key, whole.stop_key) == (b"\0\0", b"\xff\xff")
    assert (whole.start_inclusive, whole.stop_inclusive, whole.batch_size) == (True, False, 1000)
    assert (whole.full_scan, whole.validate_partition_hash, whole.return_expire_ts) == (True, True, True)
    resumed: Any = GET_SCANNER.decode_argument(Query().open(encode_key(b"h", b"s"), 10))
    assert (resumed.start_key, resumed.start_inclusive, resumed.full_scan) == (b"\0\1hs", False, True)
    one: Any = GET_SCANNER.decode_argument(Query(b"h").open(None, 10))
    assert (one.full_scan, one.validate_partition_hash, one.only_return_count) == (None, False, None)
    assert one.stop_key == next_key(b"\0\1h")
    count = Query(count_only=True)
    assert GET_SCANNER.decode_argument(count.open(None, 10)).only_return_count is True  # type: ignore[attr-defined]
    rows: Any = GET_SCANNER.decode_argument(count.open(None, 10, as_rows=True))
    assert (rows.only_return_count, rows.no_value) == (None, True)


def test_a_hash_key_prefix_sets_the_lower_bound() -> None:
    bounds = Query(hash_key_filter=Filter.prefix(b"ab")).range
    assert bounds.lower == b"\0\2ab"
    assert bounds.upper == b"\xff\xff"
    assert Query(hash_key_filter=Filter.postfix(b"ab")).range.lower == b"\0\0"
    with pytest.raises(InvalidArgument, match="cannot be used in a scan"):
        Query(b"h", hash_key_filter=Filter.prefix(b"a"))


# ---------------------------------------------------------------------------------------------------------------- parts
def split_further(parts: list[Part], table: RoutingTable) -> None:
    waiting = deque(parts)
    while waiting:
        known = len(waiting)
        part = waiting.popleft()
        part.narrow(table, waiting)
        parts.extend(islice(waiting, len(waiting) + 1 - known))


def owners(parts: list[Part], hashes: range) -> Counter[int]:
    return Counter(h for part in parts for h in hashes if h % part.modulus == part.index)


@given(st.integers(1, 12), st.data())
def test_every_hash_belongs_to_one_part(count: int, data: st.DataObject) -> None:
    """For any number of splits, with any children ready."""
    waiting: set[int] = set()
    if count % 2 == 0:
        waiting = data.draw(st.sets(st.integers(count // 2, count - 1)))
    parts = plan(routes(count, waiting))
    hashes = range(count * 32)
    assert owners(parts, hashes) == Counter(hashes)
    while count < 100 and data.draw(st.booleans()):
        # A split begins only after the previous one.
        split_further(parts, routes(count))
        count *= 2
        waiting = data.draw(st.sets(st.integers(count // 2, count - 1)))
        more: deque[Part] = deque()
        for part in parts:
            part.narrow(routes(count, waiting), more)
        parts += more
        hashes = range(count * 8)
        assert owners(parts, hashes) == Counter(hashes)
        for part in parts:
            assert part.hash == scan_hash(part.index, part.modulus)
            assert part.hash % part.modulus == part.index


def test_the_hash_of_a_parent_is_that_of_its_child_after_a_split() -> None:
    assert [scan_hash(i, 4) % 4 for i in range(4)] == [0, 1, 2, 3]
    assert [scan_hash(i, 4) % 8 for i in range(4)] == [4, 5, 6, 7]
    assert [scan_hash(i, 3) % 3 for i in range(3)] == [0, 1, 2]


def test_a_child_that_is_not_ready_is_read_from_its_parent() -> None:
    assert [(p.index, p.modulus) for p in plan(routes(4))] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [(p.index, p.modulus) for p in plan(routes(8, {5, 6}))] == [
        (0, 8), (1, 4), (2, 4), (3, 8), (4, 8), (7, 8),
    ]  # fmt: skip
    assert [p.index for p in plan(routes(8, {5}), [0, 7])] == [0, 7]
    for chosen in ([5], [8], [-1]):
        with pytest.raises(InvalidArgument, match="partition"):
            plan(routes(8, {5}), chosen)


def test_a_part_continues_in_both_halves_after_a_split() -> None:
    part = Part(1, 4, b"key")
    part.breaks = 1
    siblings: deque[Part] = deque()
    part.narrow(routes(8, {5}), siblings)
    assert (part.key, list(siblings)) == ((1, 4), [])
    part.narrow(routes(16), siblings)
    assert part.key == (1, 16)
    assert [(s.key, s.after, s.breaks) for s in siblings] == [((9, 16), b"key", 1), ((5, 8), b"key", 1)]


@given(KEY, KEY, st.sampled_from([8, 16, 32]))
def test_after_a_split_the_half_of_the_last_key_is_read_first(hash_key: bytes, sort_key: bytes, count: int) -> None:
    found = partition_hash(hash_key, sort_key)
    part = Part(found % 4, 4, encode_key(hash_key, sort_key))
    part.counted = 7
    siblings: deque[Part] = deque()
    part.narrow(routes(count), siblings)
    assert part.key == (found % count, count)
    assert owners([part, *siblings], range(256)) == Counter(range(found % 4, 256, 4))
    # The rows that were counted before stay with the parent.
    assert [p.index for p in (part, *siblings) if p.counted] == [found % 4]
    assert sum(p.counted for p in (part, *siblings)) == 7


@pytest.mark.parametrize("after", [None, b"", b"k", b"\xff\xffkey"])
def test_a_part_after_no_key_or_an_invalid_one_splits_too(after: bytes | None) -> None:
    part = Part(1, 4, after)
    siblings: deque[Part] = deque()
    part.narrow(routes(8), siblings)
    assert owners([part, *siblings], range(64)) == Counter(range(1, 64, 4))


class Strike(BaseException):
    pass


def narrow_until(last: int, parts: deque[Part]) -> bool:
    """Split the first part, and raise at an opcode. Return whether the split was complete before."""
    opcodes = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal opcodes
        if "scanner" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        opcodes += event == "opcode"
        if opcodes > last:
            raise Strike
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parts[0].narrow(routes(16), parts)
    except Strike:
        return False
    finally:
        sys.settrace(before)
    return True


def test_an_interrupted_split_leaves_every_hash_to_one_part() -> None:
    """Interrupt it at each opcode of the scanner."""
    for last in count():
        parts = deque([Part(3, 4, b"key")])
        part = parts[0]
        if narrow_until(last, parts):
            break
        assert owners(list(parts), range(64)) == Counter(range(3, 64, 4)), last
        part.narrow(routes(16), parts)
        assert sorted(part.key for part in parts) == [(3, 16), (7, 8), (11, 16)], last
    assert last > 50


def test_the_ledger_splits_its_parts() -> None:
    ledger = Ledger([(0, 4, None), (1, 4, b"a"), (2, 4, None)])
    ledger.advance(1, 4, b"b")
    ledger.advance(13, 16, b"c")
    assert sorted(ledger.after.items()) == [
        ((0, 4), None), ((1, 8), b"b"), ((2, 4), None), ((5, 16), b"b"), ((13, 16), b"c"),
    ]  # fmt: skip
    ledger.finish(5, 16)
    ledger.finish(10, 16)
    assert (10, 16) not in ledger.after
    assert ledger.after[2, 16] is None
    assert sorted(ledger.after) == [(0, 4), (1, 8), (2, 16), (6, 8), (13, 16)]
    # After an interruption the same step may come again.
    ledger.finish(5, 16)
    ledger.finish(3, 4)
    assert sorted(ledger.after) == [(0, 4), (1, 8), (2, 16), (6, 8), (13, 16)]


def test_the_ledger_puts_the_halves_of_a_part_before_the_others() -> None:
    """So that a resumed scan continues in the hash key of the last row."""
    ledger = Ledger([(1, 4, b"a"), (2, 4, None)])
    ledger.advance(5, 8, b"b")
    assert ledger.parts() == [(5, 8, b"b"), (1, 8, b"a"), (2, 4, None)]


# --------------------------------------------------------------------------------------------------------------- tokens
PARTS = st.integers(1, 64).flatmap(
    lambda n: st.lists(st.tuples(st.integers(0, n - 1), st.just(n), st.none() | KEY), max_size=6)
)
TABLE_QUERIES = st.builds(
    Query, hash_key_filter=FILTERS, sort_key_filter=FILTERS, no_value=st.booleans(), with_ttl=st.booleans()
)
HASH_QUERIES = st.builds(
    Query,
    hash_key=st.binary(min_size=1, max_size=5),
    start=KEY,
    stop=KEY,
    start_inclusive=st.booleans(),
    stop_inclusive=st.booleans(),
    prefix=KEY,
    sort_key_filter=FILTERS,
    no_value=st.booleans(),
    with_ttl=st.booleans(),
)
TABLE_TOKENS = st.builds(
    Token,
    st.text(max_size=8),
    st.integers(0, 2**31 - 1),
    TABLE_QUERIES,
    st.none() | PARTS,
    st.none() | st.lists(st.integers(0, 9)).map(tuple),
)
HASH_TOKENS = st.builds(
    Token, st.text(max_size=8), st.just(0), HASH_QUERIES, st.lists(st.tuples(st.just(0), st.just(0), st.none() | KEY))
)


@given(TABLE_TOKENS | HASH_TOKENS)
def test_tokens_are_encoded_and_decoded(token: Token) -> None:
    text = token.encode()
    assert text.isascii()
    assert decode(text) == token


@given(TABLE_TOKENS | HASH_TOKENS, st.data())
def test_broken_tokens_are_refused_or_another_token(token: Token, data: st.DataObject) -> None:
    text = list(token.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(text) - 1))
        text[position] = data.draw(st.sampled_from("ABCxyz019-_=!\u00e9"))
    try:
        decode("".join(text[: data.draw(st.integers(0, len(text)))]))
    except InvalidArgument:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.text() | JSON.map(lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode()))
def test_random_bytes_are_refused_as_a_token(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a scan token"):
        decode(text)


@given(
    st.lists(JSON, min_size=5, max_size=5),
    st.dictionaries(st.sampled_from(list(Query.__dataclass_fields__)), JSON),
)
def test_tokens_with_wrong_types_are_refused(facts: list[Any], selection: dict[str, Any]) -> None:
    text = base64.urlsafe_b64encode(json.dumps([1, *facts[:2], selection, *facts[3:]]).encode()).decode()
    try:
        token = decode(text)
    except InvalidArgument:
        return
    assert decode(token.encode()) == token
