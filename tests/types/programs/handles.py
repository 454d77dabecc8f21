"""Calls whose results are fetched later, and calls in greenlets."""

import gevent
from gevent.pool import Pool
from typing_extensions import assert_type

from pegasus_green import CallInfo, CheckResult, CheckType, Client, Handle, MultiGetResult, Utf8Codec

client = Client("127.0.0.1:34601")
table = client.table("temp")
names = client.table("temp", codec=Utf8Codec())

handle = table.get_async("user:7", "name")
assert_type(handle, Handle[bytes | None])
assert_type(handle.get(timeout=1.0), bytes | None)
assert_type(handle.exception, Exception | None)
assert_type(names.get_async("user:7", "name", default=""), Handle[str])
assert_type(table.set_async("user:7", "name", "Ada", ttl=60), Handle[None])
assert_type(names.set_async("user:7", "name", "Ada"), Handle[None])
assert_type(table.incr_async("user:7", "visits"), Handle[int])
assert_type(table.ttl_async("user:7", "name"), Handle[int | float | None])
assert_type(names.multi_get_async("user:7", prefix="n"), Handle[MultiGetResult[str]])
assert_type(names.batch_get_async([("user:7", "name")]), Handle[list[str | None]])
assert_type(names.check_and_set_async("job", "o", CheckType.EXIST, value="me"), Handle[CheckResult[str]])
assert_type(table.check_and_set_async("job", "o", CheckType.EXIST, value="me"), Handle[CheckResult[bytes]])
table.multi_set_async("user:7", {"name": "Ada"}).get()
handle.rawlink(lambda ended: print(ended.successful()))
print(gevent.wait([handle], timeout=1.0))

job = gevent.spawn(names.get, "user:7", "name")
print(job.get())
gevent.spawn(table.set, "user:7", "name", "Ada", ttl=60).get()
gevent.spawn(table.get, "user:7", "name", default=b"").get()
Pool(10).spawn(table.incr, "user:7", "visits")
info = CallInfo()
table.get("user:7", "name", info=info)
assert_type(info.attempts, int)
