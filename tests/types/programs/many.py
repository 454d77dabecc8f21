"""Many records with one call."""

import math
from typing import Any, NamedTuple

from typing_extensions import assert_type

from pegasus_green import Client, Handle, JsonCodec, MultiGetResult, PegasusError, Table, Utf8Codec

client = Client("127.0.0.1:34601")
table = client.table("temp")
names = client.table("temp", codec=Utf8Codec())
keys = [("user:1", "name"), ("user:2", "name")]

assert_type(names.get_many(keys), list[str | None])
assert_type(names.get_many(keys, default=""), list[str])
assert_type(names.get_many(keys, default=0, concurrency=10), list[str | int])
assert_type(names.get_many(keys, return_errors=True), list[str | PegasusError | None])
assert_type(names.get_many(keys, default="", return_errors=True), list[str | PegasusError])
assert_type(names.batch_get(keys, batch_size=10), list[str | None])
assert_type(table.batch_get(keys, default=b""), list[bytes])
assert_type(table.batch_get(keys, return_errors=True), list[bytes | PegasusError | None])
assert_type(names.multi_get_many(["user:1", ("user:2", ["name"])]), list[MultiGetResult[str]])
assert_type(names.multi_get_many(["user:1"], return_errors=True), list[MultiGetResult[str] | PegasusError])
assert_type(table.multi_del_many([("user:1", ["name"])]), list[int])


def of_any_table(documents: Table[Any]) -> None:
    """Read a table whose values are Any: the default can be an empty list or dict, as for get."""
    for document in documents.get_many(keys, default={}):
        print(document["name"])
    print(documents.batch_get(keys, default=[])[0])
    print(documents.get_many(keys, default={}, return_errors=True), documents.get_many_async(keys, default=[]).get())
    found = documents.batch_get_async(keys, default=[], return_errors=True).get()
    print(found, documents.batch_get(keys, default={}, return_errors=True))


of_any_table(client.table("temp", codec=JsonCodec()))
assert_type(names.batch_get(keys, default=""), list[str])
assert_type(names.batch_get(keys, default=0), list[str | int])
assert_type(names.get_many_async(keys, default=""), Handle[list[str]])
assert_type(names.batch_get(keys, default="", return_errors=True), list[str | PegasusError])
assert_type(names.get_many(keys, default=0, return_errors=True), list[str | int | PegasusError])


class Name(NamedTuple):
    """An item with its own TTL."""

    hash_key: str
    sort_key: str
    value: str
    ttl: float = math.inf


names.set_many([Name("user:1", "name", "Ada")])
names.set_stream(names.scan(with_ttl=True))
names.set_many((f"user:{number}", "name", "Ada") for number in range(10))
table.set_many([("user:1", "name", "Ada"), ("user:2", "name", b"Grace")], ttl=60)
table.multi_set("user:1", {"name": "Ada", "mail": "a@b"})
table.multi_set("user:1", {b"name": b"Ada"}, split=True, timeout=10)
table.multi_set("user:1", [("name", "Ada"), (b"mail", b"a@b")])
table.multi_set_many([("user:1", {"name": "Ada"}), ("user:2", {"name": "Grace"})])
values: dict[str, str] = {"name": "Ada"}
names.multi_set("user:1", values)
assert_type(table.multi_del("user:1", ["name"]), int)
table.del_range("user:1", prefix="m", on_progress=lambda deleted, last_key: print(deleted + 1, last_key.hex()))
try:
    table.set_many([("user:1", "name", "Ada")])
except PegasusError as error:
    for result in error.results:
        print(result)
    assert_type(error.done, int)
    assert_type(error.deleted, int)
    assert_type(error.last_key, bytes | None)
