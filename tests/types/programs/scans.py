"""Rows of scans are named tuples that unpack."""

from collections.abc import Iterator

from typing_extensions import assert_type

from pegasus_green import (
    Client,
    Filter,
    HashRow,
    HashRowWithTtl,
    MultiGetResult,
    Row,
    RowWithTtl,
    Scanner,
    SortKeys,
    Table,
    Utf8Codec,
)

client = Client("127.0.0.1:34601")
table = client.table("temp")
names = client.table("temp", codec=Utf8Codec())

with table.scan(hash_key_filter=Filter.prefix("user:"), parallel=4) as rows:
    assert_type(rows, Scanner[Row[bytes]])
    for row in rows:
        assert_type(row.hash_key, bytes)
        assert_type(row.value, bytes)
    assert_type(rows.token(), str)
for hash_key, sort_key, value in names.scan():
    assert_type(hash_key, bytes)
    assert_type(sort_key, bytes)
    assert_type(value, str)
for hash_key, _, value, ttl in names.scan(with_ttl=True):
    assert_type(value, str)
    assert_type(ttl, float)
assert_type(names.scan(with_ttl=True), Scanner[RowWithTtl[str]])
# Omitted values are b"" with every codec.
assert_type(names.scan(no_value=True), Scanner[Row[bytes]])
assert_type(next(names.hash_scan("user:7", "a", "b", stop_inclusive=True)), HashRow[str])
assert_type(next(names.hash_scan("user:7", with_ttl=True)), HashRowWithTtl[str])
assert_type(dict(table.hash_scan("user:7")), dict[bytes, bytes])
assert_type(names.scanners(4), list[Scanner[Row[str]]])
assert_type(names.multi_get_iter("user:7", reverse=True), Iterator[HashRow[str]])
assert_type([sort_key for sort_key, _ in table.multi_get_iter("user:7", no_value=True)], list[bytes])

found = names.multi_get("user:7", prefix="na", max_count=10)
assert_type(found, MultiGetResult[str])
assert_type(found[b"name"], str)
assert_type(found.complete, bool)
assert_type(names.multi_get("user:7", ["name"], no_value=True), MultiGetResult[bytes])
assert_type(table.multi_get_sort_keys("user:7"), SortKeys)
assert_type(table.count(), int)


def optional_ttl(table: Table[str], *, with_ttl: bool) -> list[bytes]:
    """Take a flag that is known only at run time."""
    return [row.sort_key for row in table.hash_scan("user:7", with_ttl=with_ttl)]


def first(rows: Iterator[Row[str]]) -> str:
    """Take any iterator of rows."""
    return next(rows).value


print(optional_ttl(names, with_ttl=True), first(names.scan()))
