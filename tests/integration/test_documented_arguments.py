"""Test that the documented API refuses arguments of a wrong type with an error that names them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from pegasus_green import InvalidArgument, MultiGetOptions, Pegasus, PegasusError, ScanOptions, connect
from tests.conftest import Cluster


@pytest.fixture
def pegasus(cluster: Cluster) -> Iterator[Pegasus]:
    client = Pegasus(cluster.metas, cluster.table)
    assert client.init()
    yield client
    client.close()


def test_errors_name_arguments_of_a_wrong_type(pegasus: Pegasus, hash_key: bytes) -> None:
    odd = ScanOptions()
    odd.batch_size = None  # type: ignore[assignment]
    wrong: list[tuple[str, Any]] = [
        ("timeout", lambda: pegasus.get(hash_key, "s", math.nan)),
        ("sortkey_set", lambda: pegasus.multi_get(hash_key, 5)),  # type: ignore[arg-type]
        ("max_split_count", lambda: pegasus.get_unordered_scanners("3", ScanOptions())),  # type: ignore[arg-type]
        ("batch_size", lambda: pegasus.get_unordered_scanners(3, odd)),
        ("batch_size", lambda: pegasus.get_scanner(hash_key, "", "", odd)),
        ("max_split_count", lambda: pegasus.get_unordered_scanners(True, ScanOptions())),
        ("max_kv_count", lambda: pegasus.multi_get(hash_key, None, 1.5)),  # type: ignore[arg-type]
        ("max_kv_count", lambda: pegasus.get_sort_keys(hash_key, "3")),  # type: ignore[arg-type]
        ("max_kv_size", lambda: pegasus.multi_get_opt(hash_key, "", "", None, 1, 1.5)),  # type: ignore[arg-type]
        ("start_sort_key", lambda: pegasus.multi_get_opt(hash_key, 5, "", None)),  # type: ignore[arg-type]
        ("stop_sort_key", lambda: pegasus.get_scanner(hash_key, "", 5, ScanOptions())),  # type: ignore[arg-type]
        ("sortkey_value_dict", lambda: pegasus.multi_set(hash_key, "ab")),  # type: ignore[arg-type]
        ("meta_addrs", lambda: Pegasus(5, "temp")),  # type: ignore[arg-type]
        ("a URL must be a str", lambda: connect(["h:1"])),  # type: ignore[arg-type]
        ("a URL must be a str", lambda: connect(b"pegasus://h:1/t")),  # type: ignore[arg-type]
    ]
    for text, call in wrong:
        with pytest.raises(InvalidArgument, match=text):
            call()


def test_values_that_cannot_be_sent_raise(pegasus: Pegasus, hash_key: bytes) -> None:
    with pytest.raises(ValueError, match="value"):
        pegasus.set(hash_key, "s", 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sort_key"):
        pegasus.get(hash_key, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl"):
        pegasus.set(hash_key, "s", "v", -1)
    with pytest.raises(ValueError, match="ttl"):
        pegasus.multi_set(hash_key, {"s": "v"}, -1)
    for one in ("s001", b"s001"):
        with pytest.raises(ValueError, match="sortkey_set"):
            pegasus.multi_get(hash_key, one)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="sortkey_set"):
            pegasus.multi_del(hash_key, one)  # type: ignore[arg-type]
    options = MultiGetOptions()
    options.sortkey_filter_type = 4
    with pytest.raises(ValueError, match="filter"):
        pegasus.multi_get_opt(hash_key, "", "", options)
    assert pegasus.sort_key_count(hash_key) == (0, 0)


def test_a_client_that_is_closed_while_a_scanner_is_made(cluster: Cluster) -> None:
    """Another native thread can close it at any step."""

    class Options(ScanOptions):
        def __getattribute__(self, name: str) -> Any:
            client.close()
            return super().__getattribute__(name)

    client = Pegasus(cluster.metas, cluster.table)
    assert client.init()
    scanner = client.get_scanner("h", "", "", Options())
    assert client.init()
    for each in [scanner, *client.get_unordered_scanners(1, Options())]:
        with pytest.raises(PegasusError):
            each.get_next()
