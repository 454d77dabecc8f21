"""Recipes whose results have the type of the table's values."""

from typing import Any

from typing_extensions import assert_type

from pegasus_green import Client, JsonCodec, Utf8Codec
from pegasus_green.recipes import Leader, Lock, Once, Semaphore, Singleflight

client = Client("127.0.0.1:34601")
table = client.table("temp")
names = client.table("temp", codec=Utf8Codec())


def name_of(number: int) -> str:
    """Return a name."""
    return f"user {number}"


def maybe(number: int) -> str | None:
    """Return a name or None."""
    return name_of(number) if number else None


once = Once(names, "charge")
assert_type(once, Once[str])
assert_type(once.run("7", name_of, 7), str)
assert_type(once.run("7", maybe, 7), str | None)
assert_type(once.result("7"), str | None)
assert_type(once.result("7", default=""), str | None)
assert_type(once.result("7", default=0), str | int | None)
once.run("7", lambda: 7)  # type: ignore[arg-type, return-value]  # pyright: ignore
# Without a codec a str is stored as UTF-8 and read back as bytes.
assert_type(Once(table, "charge").run("7", name_of, 7), bytes)
assert_type(Once(table, "charge").run("7", maybe, 7), bytes | None)

pages = Singleflight(names, "pages", ttl=60)
assert_type(pages.get("/", name_of, 7), str)
assert_type(pages.get("/", maybe, 7), str | None)
assert_type(Singleflight(table, "pages", ttl=60).get("/", name_of, 7), bytes)
assert_type(Singleflight(table, "pages", ttl=60).get("/", maybe, 7), bytes | None)
documents = Singleflight(client.table("temp", codec=JsonCodec()), "documents", ttl=60)
assert_type(documents.get("/", lambda: {"langs": []}), Any)


def lost(lock: Lock) -> None:
    """Say which lock is lost."""
    print(lock.name)


Lock(table, "report", on_lost=lost)
Semaphore(names, "slots", value=3, on_lost=lambda slots: print(slots.name))
assert_type(Leader(table, "cron").run(name_of, 7), str)
