"""Test shared_client: one client for each process and URL."""

from __future__ import annotations

from pathlib import Path
from time import time

import gevent
import pytest

from pegasus_green import InvalidArgument, shared_client
from pegasus_green.operations import base
from pegasus_green.shared import bounded_ttl, remove_prefix, shared_table
from tests.conftest import Cluster
from tests.fork.forking import fork


def url_of(cluster: Cluster, options: str = "") -> str:
    return f"pegasus://{','.join(cluster.metas)}/{cluster.table}{options}"


def test_the_same_url_gives_the_same_client(cluster: Cluster) -> None:
    url = url_of(cluster)
    jobs = gevent.joinall([gevent.spawn(shared_client, url) for _ in range(50)])
    client = shared_client(url)
    assert {id(job.get()) for job in jobs} == {id(client)}
    assert shared_table(url).client is client
    other = shared_client(url_of(cluster, "?timeout=7"))
    assert other is not client
    assert other.options.timeout == 7
    for shared in (client, other):
        shared.close()


def test_the_property_file_of_a_shared_client_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text("auth_protocol =\n")
    url = f"pegasus://127.0.0.1:34601/temp?auth=properties:{path}"
    table = shared_table(url)
    path.unlink()
    assert shared_table(url).client is table.client
    table.client.close()


def test_a_closed_client_is_replaced(cluster: Cluster) -> None:
    url = url_of(cluster)
    client = shared_client(url)
    client.close()
    assert client.closed
    again = shared_client(url)
    assert again is not client
    shared_table(url).set("shared:1", "", "x")
    assert remove_prefix(shared_table(url), "shared:") == 1
    again.close()


def test_a_forked_child_opens_its_own_connections(cluster: Cluster) -> None:
    url = url_of(cluster)
    shared_table(url).set("shared:fork", "", "parent")
    parent = shared_client(url)

    def in_child() -> None:
        assert shared_client(url) is parent
        assert shared_table(url).get("shared:fork", "") == b"parent"

    assert fork("os.fork", in_child)() == 0
    assert shared_table(url).get("shared:fork", "") == b"parent"
    shared_table(url).remove("shared:fork", "")
    parent.close()


def test_invalid_urls_and_urls_without_a_table_are_refused() -> None:
    for bad in ("http://127.0.0.1/t", "", None):
        with pytest.raises(InvalidArgument):
            shared_client(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="must name a table"):
        shared_table("pegasus://127.0.0.1:34601")


def test_a_ttl_above_the_protocol_limit_is_reduced() -> None:
    assert bounded_ttl(60) == 60
    assert 10**9 < bounded_ttl(10**12) < 2**31


def test_a_reduced_ttl_can_be_used_hours_later(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A serializer, or the wait for max_rate, can take long between the reduction and the request."""
    table = shared_table(url_of(cluster))
    ttl = bounded_ttl(10**12)
    monkeypatch.setattr(base, "time", lambda: time() + 3600)
    table.set("user", "late", b"value", ttl=ttl)
    table.client.close()
