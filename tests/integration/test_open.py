"""Test the creation of clients and tables: URLs, the environment, the table of a URL, and closing."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import gevent
import pytest

from pegasus_green import Client, InvalidArgument, JsonCodec, RetryPolicy, Table, connect, errors, open_table
from pegasus_green.onebox import Onebox
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs

__all__ = ["no_client_bugs"]


@pytest.fixture
def url(cluster: Cluster) -> str:
    return f"pegasus://{','.join(cluster.metas)}/{cluster.table}"


def test_connect_gives_a_client_and_its_table(url: str, hash_key: bytes) -> None:
    with connect(f"{url}?timeout=3&max_attempts=4", connect_timeout=0.5) as client:
        assert type(client) is Client
        assert (client.options.timeout, client.options.connect_timeout) == (3.0, 0.5)
        assert client.options.retry == RetryPolicy(max_attempts=4)
        table = client.table()
        assert (table.client, table.codec) == (client, None)
        table.set(hash_key, "s", "v")
        assert client.table(table.name).get(hash_key, "s") == client[table.name].get(hash_key, "s") == b"v"
        table.close()
        assert table.get(hash_key, "s") == b"v", "a table of client.table() has nothing to close"
    assert repr(client).endswith("closed>")


def test_open_table_owns_its_client(url: str, hash_key: bytes) -> None:
    with open_table(url) as table:
        table.set(hash_key, "s", "v")
        assert table.get(hash_key, "s") == b"v"
    with pytest.raises(errors.ClientClosed):
        table.get(hash_key, "s")
    table.close()
    table.client.close()


def test_the_codec_of_a_url_is_that_of_its_table(url: str, hash_key: bytes) -> None:
    table: Table[Any] = open_table(f"{url}?codec=json")
    with table:
        table.set(hash_key, "s", {"a": [1]})
        assert table.get(hash_key, "s") == {"a": [1]}
        again: Table[Any] = table.client.table()
        assert again.get(hash_key, "s") == {"a": [1]}
        # With an explicit name the table has the type that a checker assumes: bytes.
        assert table.client.table(table.name).get(hash_key, "s") == b'{"a":[1]}'
    with open_table(f"{url}?codec=utf8", codec=JsonCodec()) as other:
        assert other.get(hash_key, "s") == {"a": [1]}


def test_from_env_reads_pegasus_url(url: str, hash_key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEGASUS_URL", url)
    monkeypatch.setenv("OTHER_URL", f"{url}?timeout=7")
    with Client.from_env(timeout=4.0) as client, Client.from_env("OTHER_URL") as other:
        assert (client.options.timeout, other.options.timeout) == (4.0, 7.0)
        client.table().set(hash_key, "s", "v")
        assert other.table().get(hash_key, "s") == b"v"
    monkeypatch.delenv("PEGASUS_URL")
    with pytest.raises(InvalidArgument, match=r"PEGASUS_URL is not set: export PEGASUS_URL=pegasus://"):
        Client.from_env()
    monkeypatch.setenv("PEGASUS_URL", "http://h:1")
    with pytest.raises(InvalidArgument, match=r"variable PEGASUS_URL: http:// is not a Pegasus address"):
        Client.from_env()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: connect("pegasus://h:1").table(), "names one"),
        (lambda: Client("h:1").table(), "names one"),
        (lambda: open_table("pegasus://h:1"), "names one"),
        (lambda: Client("h:1").table("t", codec=7), "codec must have the methods encode and decode"),  # type: ignore[call-overload]
        (lambda: Client("h:1").table(""), "must not be empty"),
        (lambda: Client("http://h:1"), "not the URL 'http://h:1': use connect"),
        (lambda: Client(["pegasus://h:1/t"]), "not the URL"),
        (lambda: Client(("h", 34601)), r"not 34601; meta servers are a list, for example \[\(.127.0.0.1., 34601\)\]$"),  # type: ignore[arg-type]
        (lambda: Client(b"h:1"), "meta servers must be a list of addresses, not b'h:1'"),  # type: ignore[arg-type]
        (lambda: Client.from_env(""), "the name of the environment variable must not be empty"),
        (lambda: Client("ada:secret@h:1"), "without a user name before it$"),
        (lambda: Client("redis://ada:secret@h:1"), "without a user name before it$"),
        (lambda: Client("::1"), "an IPv6 address must be in brackets"),
        (lambda: Client("[::1"), "the bracket of an IPv6 address is not closed in .*write \\[::1\\]:34601"),
        (lambda: Client("a;b"), "a host name cannot contain .;.: .a;b.; commas separate meta servers"),
        (lambda: Client("a:1;b:2"), "a host name cannot contain .;.: .a:1;b:2.; commas separate meta servers"),
        (lambda: connect("pegasus://a:1|b:2/t"), "a host name cannot contain .[|].: .a:1[|]b:2.; commas"),
        (lambda: connect("pegasus://a:1 b:2/t"), "a host name cannot contain . .: .a:1 b:2.; commas"),
        (lambda: Client("a:1;b"), "a host name cannot contain .;.: .a:1;b.; commas separate meta servers"),
        (lambda: Client("[::1]:1;[::2]:2"), "a host name cannot contain .;.: .*; commas separate meta servers"),
        (lambda: Client("a b:1"), "a host name cannot contain . .:"),
        (lambda: connect("pegasus://h:1/t?codec=xml"), "codec='xml' in the URL must be json"),
        (lambda: connect("pegasus://h:1/t", time_out=1), "did you mean 'timeout'"),  # type: ignore[call-arg]
    ],
)
def test_invalid_urls_are_refused(call: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        call()


def test_from_url_of_a_subclass_returns_the_subclass(url: str) -> None:
    class Mine(Client):
        pass

    assert type(Mine.from_url(url)) is Mine


def test_tables_refuse_pickling(table: Table[bytes]) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(table)


@pytest.mark.onebox_only
def test_the_partition_of_a_key(cluster: Cluster, client: Client, table: Table[bytes], hash_key: bytes) -> None:
    for number in range(20):
        key = f"{number}-{hash_key.hex()}"
        table.set(key, "s", "v")
        index = table.partition_of(key)
        assert table.count(hash_key_filter=None, partitions=[index]) > 0
        assert [row.hash_key for row in table.scan(partitions=[index]) if row.hash_key == key.encode()]
    assert table.partition_of("", "a") != table.partition_of("", "c"), "the sort key counts without a hash key"
    with pytest.raises(errors.TableNotFound):
        client.table("no such table").partition_of("k")
    with pytest.raises(InvalidArgument):
        table.partition_of(7)  # type: ignore[arg-type]


def test_blanks_around_a_url_do_not_count() -> None:
    with connect(" pegasus://h:1/temp?timeout=7 \n") as client:
        assert (client.options.timeout, client.table().name) == (7.0, "temp")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_the_error_for_an_unused_local_port_names_the_onebox_command(host: str) -> None:
    with Client(f"{host}:1", timeout=1.0) as client, pytest.raises(errors.MetaUnreachable) as caught:
        client.ping()
    assert "HINT: nothing answers on this machine: start a cluster with `python -m pegasus_green onebox`" in str(
        caught.value
    )


def test_the_error_without_a_leader_says_that_servers_answer() -> None:
    with Onebox(metas=2, tables={"temp": 1}) as box, Client(list(box.meta_addresses), timeout=1.0) as client:
        box.set_leader(None)
        with pytest.raises(errors.MetaUnreachable, match="HINT: the meta servers answer, but none is the leader"):
            client.table("temp").get("a", "b")


def test_a_server_that_stays_dead_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pegasus_green")
    with (
        Onebox(replicas=1, metas=1, tables={"temp": 1}) as box,
        Client(list(box.meta_addresses), timeout=0.2) as client,
    ):
        table = client.table("temp")
        table.set("k", "s", "v", timeout=20.0)
        [server] = [name for name in client.stats()["servers"] if name not in box.meta_addresses]
        box.kill(0)
        for _ in range(5):
            with pytest.raises(errors.PegasusError):
                table.get("k", "s")
        box.restart(0)
        with gevent.Timeout(20):
            while True:
                try:
                    table.get("k", "s")
                    break
                except errors.PegasusError:
                    gevent.sleep(0.05)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if server in record.getMessage()]
    warnings = [text for level, text in lines if level == "WARNING" and "cannot connect" in text]
    assert len(warnings) == 1, lines
    assert ("INFO", f"connected to {server} again") in lines
