"""What checkers must refuse. An unused "ignore" is an error in both of them."""

from pegasus_green import CheckType, Client, Table, Utf8Codec, connect, open_table

client = Client("127.0.0.1:34601")
table = client.table("temp")
names = client.table("temp", codec=Utf8Codec())

table.set("user:7", "name", 7)  # type: ignore[call-overload]  # pyright: ignore
names.set("user:7", "name", b"Ada")  # type: ignore[arg-type]  # pyright: ignore
names.set_async("user:7", "name", 7)  # type: ignore[arg-type]  # pyright: ignore
table.get(7)  # type: ignore[call-overload]  # pyright: ignore
table.get("user:7", timeout="1")  # type: ignore[call-overload]  # pyright: ignore
table.get("user:7").decode()  # type: ignore[union-attr]  # pyright: ignore
table.scan(limits=3)  # type: ignore[call-overload]  # pyright: ignore
table.scan(limit="3")  # type: ignore[call-overload]  # pyright: ignore
next(table.hash_scan("user:7")).hash_key  # type: ignore[attr-defined]  # pyright: ignore
names.multi_set("user:7", {"name": 7})  # type: ignore[arg-type]  # pyright: ignore
names.mapping("user:7")["name"] = b"Ada"  # type: ignore[assignment]  # pyright: ignore
names.check_and_set("job", "o", CheckType.EXIST, value=7)  # type: ignore[arg-type]  # pyright: ignore
client.table("temp", codec=str)  # type: ignore[call-overload]  # pyright: ignore
connect("pegasus://h:1", time_out=1)  # type: ignore[call-arg]  # pyright: ignore
connect("pegasus://h:1/t").get("user:7")  # type: ignore[attr-defined]  # pyright: ignore
open_table("pegasus://h:1/t", timeout="1")  # type: ignore[call-overload]  # pyright: ignore
wrong: Table[str] = client.table("temp")  # type: ignore[assignment]  # pyright: ignore
