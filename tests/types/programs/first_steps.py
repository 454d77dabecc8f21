"""The first program: connect, write, read."""

from typing_extensions import assert_type

from pegasus_green import Client, RequestTimeout, Table, connect, open_table

with connect("pegasus://127.0.0.1:34601/temp?timeout=2", timeout=1.0) as client:
    assert_type(client, Client)
    table = client.table()
    assert_type(table, Table[bytes])
    assert_type(client["temp"], Table[bytes])
    table.set("user:7", "name", "Ada")
    table.set(b"user:7", b"name", bytearray(b"Ada"), ttl=60)
    assert_type(table.get("user:7", "name"), bytes | None)
    assert_type(table.get("user:7", "name", default=b""), bytes)
    assert_type(table.get("user:7", "name", default=0), bytes | int)
    assert_type(table.incr("user:7", "visits"), int)
    assert_type(table.ttl("user:7", "name"), int | float | None)
    assert_type(table.client.options.timeout, float)
    try:
        with client.deadline(0.5):
            table.remove("user:7", "name")
    except RequestTimeout as error:
        assert_type(error.outcome_unknown, bool)
        assert_type(error.timeout, float | None)

with open_table("pegasus://127.0.0.1:34601/temp") as mine:
    assert_type(mine, Table[bytes])
    assert_type(mine.client, Client)

with Client([("127.0.0.1", 34601), "127.0.0.1:34602"], retry=None, max_write_bytes=None) as other:
    assert_type(other.table("temp").exist("user:7", "name"), bool)
with Client.from_env(timeout=0.5) as another:
    assert_type(another, Client)


class Mine(Client):
    """An application's own client."""


assert_type(Mine.from_url("pegasus://127.0.0.1:34601"), Mine)
