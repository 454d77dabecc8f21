"""Checks before writes, and the mapping over a hash key."""

from collections.abc import MutableMapping
from typing import Any

from typing_extensions import assert_type

from pegasus_green import (
    CheckResult,
    CheckType,
    Client,
    CodecError,
    HashMapping,
    Incomplete,
    IntegerOverflow,
    JsonCodec,
    Mutations,
    NotAnInteger,
    Utf8Codec,
)

client = Client("127.0.0.1:34601")
table = client.table("temp")
names = client.table("temp", codec=Utf8Codec())
documents = client.table("temp", codec=JsonCodec())

assert_type(table.check_and_set("job", "owner", CheckType.NOT_EXIST, value="me"), CheckResult[bytes])
result = names.check_and_set("job", "owner", CheckType.NOT_EXIST, value="me", return_check_value=True)
assert_type(result, CheckResult[str])
assert_type(result.check_value, str | None)
assert_type(result.was_set, bool)
assert_type(
    documents.check_and_set("job", "state", CheckType.EXIST, value={"state": "done"}, timeout=1.0), CheckResult[Any]
)
done = Mutations().put("state", "done", ttl=60).delete("owner")
assert_type(names.check_and_mutate("job", "n", CheckType.INT_LESS, 3, mutations=done), CheckResult[str])
assert_type(table.compare_exchange("job", "state", "new", b"running"), CheckResult[bytes])
assert_type(names.compare_exchange("job", "state", None, "new"), CheckResult[str])
assert_type(table.touch("job", "state", 60), bool)

user = table.mapping("user:7", ttl=60)
assert_type(user, HashMapping[bytes])
user["name"] = "Ada"
user[b"mail"] = b"a@b"
assert_type(user["name"], bytes)
assert_type(user.get("name"), bytes | None)
assert_type(user.get("name", b""), bytes)
assert_type(user.pop("name"), bytes)
assert_type(user.pop("name", None), bytes | None)
assert_type(user.popitem(), tuple[bytes, bytes])
assert_type(user.setdefault("name", "Ada"), bytes)
user.update({"name": "Ada"}, mail="a@b")
print(b"name" in user, sorted(user), dict(user), len(user))
for sort_key, value in user.items():
    assert_type(sort_key, bytes)
    assert_type(value, bytes)
texts = names.mapping("user:7")
assert_type(texts["name"], str)
assert_type(list(texts.values()), list[str])
general: MutableMapping[bytes, str] = texts

try:
    table.incr("user:7", "visits")
except IntegerOverflow as error:
    assert_type(error.old_value, int)
except NotAnInteger as error:
    assert_type(error.result, CheckResult[Any] | None)
except Incomplete as error:
    assert_type(error.rows, tuple[()])
except CodecError as error:
    assert_type(error.raw, bytes | None)
