"""Tables of values that are no bytes."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import assert_type

from pegasus_green import Client, Codec, JsonCodec, Table, Utf8Codec, ZstdCodec, open_table


@dataclass
class User:
    """What an application stores."""

    name: str
    born: int


class UserCodec:
    """A codec of the application; nothing of the package is inherited."""

    def encode(self, value: User) -> bytes:
        """Return JSON."""
        return json.dumps(asdict(value)).encode()

    def decode(self, raw: bytes) -> User:
        """Return the user."""
        return User(**json.loads(raw))


codec: Codec[User] = UserCodec()
client = Client("127.0.0.1:34601")
users = client.table("temp", codec=codec)
assert_type(users, Table[User])
assert_type(client.table("temp", codec=UserCodec()), Table[User])
assert_type(users.get("7"), User | None)
assert_type(users.get("7", default=User("nobody", 0)), User)
users.set("7", "profile", User("Ada", 1815))

names = client.table("temp", codec=Utf8Codec())
assert_type(names, Table[str])
assert_type(names.get("7", "name", default=""), str)
names.set("7", "name", "Ada")

documents = client.table("temp", codec=JsonCodec())
assert_type(documents, Table[Any])
documents.set("7", "profile", {"langs": ["en", "fr"]})
print(documents.get("7", "profile", default={})["langs"])

assert_type(client.table("temp", codec=ZstdCodec()), Table[bytes])
assert_type(client.table("temp", codec=ZstdCodec(UserCodec(), level=9)), Table[User])
with open_table("pegasus://127.0.0.1:34601/temp", codec=Utf8Codec()) as pages:
    assert_type(pages, Table[str])
# A checker cannot read the codec in a URL.
by_url: Table[Any] = open_table("pegasus://127.0.0.1:34601/temp?codec=json")


def rename(table: Table[User], hash_key: str, name: str) -> User | None:
    """Rename a user."""
    user = table.get(hash_key, "profile")
    if user is not None:
        user.name = name
        table.set(hash_key, "profile", user)
    return user


def any_table(table: Table[Any]) -> int:
    """Take a table of whatever."""
    return table.count()


print(rename(users, "7", "Augusta"), any_table(users), any_table(names))
