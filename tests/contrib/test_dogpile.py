"""The dogpile.cache backend: layout, expiry, and one creator among many greenlets and processes."""

from __future__ import annotations

import subprocess
import sys

import gevent
import pytest
from dogpile.cache import make_region

from pegasus_green import InvalidArgument
from pegasus_green.contrib.dogpile import PegasusBackend
from pegasus_green.shared import shared_table

CREATE = """
import sys, time
from dogpile.cache import make_region
arguments = {"url": sys.argv[1], "distributed_lock": True, "lock_sleep": 0.02}
region = make_region().configure("pegasus_green", expiration_time=60, arguments=arguments)
def create():
    print("created", flush=True)
    time.sleep(1)
    return "value"
assert region.get_or_create("key", create) == "value"
"""


def test_records_have_the_documented_layout(url: str) -> None:
    region = make_region(serializer=lambda value: value.encode(), deserializer=bytes.decode)
    region.configure("pegasus_green", arguments={"url": url, "ttl": 100})
    region.set("Zoë", "value")
    region.set_multi({"a": "1", "b": "2"})
    table = shared_table(url)
    assert table.get("Zoë".encode(), b"", default=b"").endswith(b"value")
    assert table.ttl("Zoë", b"") in range(80, 101)
    assert table.ttl("b", b"") in range(80, 101)
    assert region.get_multi(["a", "absent", "b"])[::2] == ["1", "2"]


def test_one_of_many_greenlets_calls_the_creator(url: str) -> None:
    region = make_region().configure(
        "pegasus_green", expiration_time=60, arguments={"url": url, "distributed_lock": True, "lock_sleep": 0.02}
    )
    created = []

    def create() -> str:
        created.append(1)
        gevent.sleep(0.2)
        return "value"

    jobs = [gevent.spawn(region.get_or_create, "key", create) for _ in range(20)]
    assert {job.get() for job in gevent.joinall(jobs)} == {"value"}
    assert created == [1]


def test_one_of_several_processes_calls_the_creator(url: str) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", CREATE, url], stdout=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert b"".join(said).count(b"created") == 1


def test_a_missing_url_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="must contain the key url"):
        PegasusBackend({})
