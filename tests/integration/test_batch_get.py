"""Test batch_get: one request for each group of keys that a split keeps together, results in the order of the keys."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from pegasus_green import Client, CodecError, InvalidArgument, JsonCodec, PegasusError, Table, TableNotFound, errors
from pegasus_green.keys import crc64
from pegasus_green.operations.batch import group, modulus_of
from tests.conftest import Cluster
from tests.integration.helpers import BINARY, no_client_bugs, pass_time, refused

__all__ = ["no_client_bugs"]

BATCH_GET = "RPC_RRDB_RRDB_BATCH_GET"


@pytest.fixture
def spread(table: Table, hash_key: bytes) -> dict[tuple[bytes, bytes], bytes]:
    """Store 200 records under 100 hash keys, in all partitions."""
    stored = {(hash_key + b"-%d" % (index // 2), b"%d" % (index % 2)): b"value %d" % index for index in range(200)}
    table.set_many([(*pair, value) for pair, value in stored.items()])
    return stored


def test_set_and_batch_get(table: Table, spread: dict[tuple[bytes, bytes], bytes]) -> None:
    pairs = list(spread)
    assert table.batch_get(pairs) == list(spread.values())
    assert table.batch_get(reversed(pairs)) == list(spread.values())[::-1]
    assert all(type(value) is bytes for value in table.batch_get(pairs))


def test_absent_and_repeated_records_keep_their_places(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {"a": "1", "b": "", "ü": "3"})
    keys: list[tuple[str | bytes, str | bytes]] = [
        (hash_key, "b"),
        ("nobody " + hash_key.hex(), "a"),
        (hash_key, "ü"),
        (hash_key, b"b"),
        (hash_key, "none"),
    ]
    assert table.batch_get(keys) == [b"", None, b"3", b"", None]
    assert table.batch_get(keys, default=0) == [b"", 0, b"3", b"", 0]
    assert table.batch_get([(hash_key, "none")]) == [None]


def test_expired_records_are_absent(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {"a": "1"}, ttl=1)
    table.multi_set(hash_key, {"b": "2"})
    pass_time(cluster, 2)
    assert table.batch_get([(hash_key, "a"), (hash_key, "b")]) == [None, b"2"]


def test_binary_keys_are_kept_apart(table: Table, hash_key: bytes) -> None:
    """Keys that are not UTF-8, or differ only in the end of the hash key."""
    stored = {
        (hash_key + BINARY, BINARY): b"1",
        (hash_key + b"\xff\xfe", b""): b"2",
        (hash_key + b"\xff", b"\xfe"): b"3",
        (hash_key + b"\xfe", b"\xfe"): b"4",
    }
    for pair, value in stored.items():
        table.set(*pair, value)
    assert table.batch_get(stored) == list(stored.values())


def test_empty_hash_keys(table: Table, hash_key: bytes) -> None:
    keys = [("", hash_key + b"%d" % index) for index in range(20)]
    for key in keys:
        table.set(*key, key[1])
    assert table.batch_get(keys) == [key[1] for key in keys]
    for key in keys:
        table.remove(*key)


def test_the_codec(table: Table, hash_key: bytes) -> None:
    documents = table.client.table(table.name, codec=JsonCodec())
    documents.set(hash_key, "a", [1])
    assert documents.batch_get([(hash_key, "a"), (hash_key, "none")], default="-") == [[1], "-"]
    table.set(hash_key, "b", "no JSON")
    with pytest.raises(CodecError):
        documents.batch_get([(hash_key, "b")])


def test_no_keys_give_an_empty_result(client: Client, table: Table) -> None:
    assert table.batch_get([]) == []
    assert client._cluster.pool.connections == []


def test_a_missing_table(client: Client) -> None:
    with pytest.raises(TableNotFound) as caught:
        client.table("no_such_table").batch_get([("a", "b")])
    assert (caught.value.table, caught.value.operation) == ("no_such_table", "batch_get")


@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.batch_get(None),
        lambda table: table.batch_get([1]),
        lambda table: table.batch_get([("a",)]),
        lambda table: table.batch_get([("a", "b", "c")]),
        lambda table: table.batch_get([("a", 1)]),
        lambda table: table.batch_get([("x" * 65535, "b")]),
        lambda table: table.batch_get([("a", "b")], batch_size=0),
        lambda table: table.batch_get([("a", "b")], batch_size=None),
        lambda table: table.batch_get([("a", "b")], timeout=0),
    ],
    ids=itertools.count(),
)
def test_bad_arguments_are_not_sent(client: Client, table: Table, call: Callable[[Table], Any]) -> None:
    refused(client, lambda: call(table))


# --------------------------------------------------------------------------------------------------------------- groups
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_group_stays_together_in_a_split(count: int) -> None:
    hashes = {(b"%d" % index, b""): crc64(b"%d" % index) for index in range(500)}
    groups = group(hashes, hashes, count, 10)
    assert sorted(pair for members in groups for pair in members) == sorted(hashes)
    assert max(len(members) for members in groups) == 10
    for members in groups:
        assert len({hashes[pair] % (2 * count) for pair in members}) == 1
    assert len({hashes[members[0]] % (2 * count) for members in groups}) == 2 * count


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_first_key_of_a_group_is_refused_after_every_split_that_separates_the_keys(count: int) -> None:
    hashes = {(b"%d" % index, b""): crc64(b"%d" % index) for index in range(500)}
    # The keys whose hash is the index of a partition stay in it for ever.
    hashes.update({(b"%d" % index, b"low"): index for index in range(count)})
    separated = 0
    for members in group(hashes, hashes, count, 10):
        index = hashes[members[0]] % count
        for splits in range(6):
            now = count << splits
            elsewhere = [pair for pair in members if hashes[pair] % now != index]
            separated += bool(elsewhere)
            assert not elsewhere or hashes[members[0]] % now != index
        modulus = modulus_of(hashes[members[0]], index, count)
        assert all(hashes[pair] % modulus == index for pair in members)
    assert separated


@pytest.mark.parametrize("count", [1, 3, 8])
def test_an_answer_counts_only_for_keys_that_are_certainly_in_the_partition(count: int) -> None:
    hashes = [crc64(b"%d" % index) for index in range(200)] + list(range(4))
    for splits in range(4):
        now = count << splits
        for accepted in hashes[:40] + hashes[-4:]:
            index = accepted % now
            # The client may still know the count before the splits.
            modulus = modulus_of(accepted, index, count)
            counted = [partition_hash for partition_hash in hashes if partition_hash % modulus == index]
            assert accepted in counted
            assert all(partition_hash % now == index for partition_hash in counted)


def _requests(cluster: Cluster) -> int:
    return sum(server.requests.get(BATCH_GET, 0) for server in cluster.box.servers)


@pytest.mark.onebox_only
def test_one_request_for_each_group_all_in_flight_together(
    cluster: Cluster, table: Table, spread: dict[tuple[bytes, bytes], bytes]
) -> None:
    table.batch_get(spread)
    groups = len({crc64(hash_key) % 16 for hash_key, _ in spread})
    before = _requests(cluster)
    rule = cluster.box.fault("delay", rpc="batch_get", seconds=0.4)
    # One after the other would take several seconds.
    with gevent.Timeout(1.6):
        assert table.batch_get(spread) == list(spread.values())
    assert _requests(cluster) - before == rule.hits == groups
    cluster.box.clear_faults()
    assert table.batch_get(spread, batch_size=1) == list(spread.values())
    assert _requests(cluster) - before == groups + 200


@pytest.mark.onebox_only
def test_the_error_of_a_partition_is_raised(
    cluster: Cluster, table: Table, spread: dict[tuple[bytes, bytes], bytes]
) -> None:
    cluster.box.fault("error", error="ERR_ACL_DENY", rpc="batch_get", partition=3)
    with pytest.raises(PegasusError) as caught:
        table.batch_get(spread)
    assert (caught.value.code, caught.value.operation) == ("ERR_ACL_DENY", "batch_get")


@pytest.mark.onebox_only
def test_a_result_or_an_error_for_each_key(
    cluster: Cluster, table: Table, spread: dict[tuple[bytes, bytes], bytes]
) -> None:
    cluster.box.fault("error", error="ERR_ACL_DENY", rpc="batch_get", partition=3)
    keys = [*spread, (b"nobody", b"none")]
    results = table.batch_get(keys, default=0, return_errors=True)
    denied = 0
    for pair, result in zip(keys, results):
        if table.partition_of(*pair) == 3:
            denied += 1
            assert isinstance(result, errors.AccessDenied)
            assert (result.table, result.operation) == (table.name, "batch_get")
        else:
            assert result == spread.get(pair, 0)
    assert 0 < denied < len(keys)
    assert len({id(result) for result in results if isinstance(result, PegasusError)}) == denied, "each has its own"
    with pytest.raises(errors.AccessDenied) as caught:
        table.batch_get(keys, default=0)
    assert [type(result) for result in caught.value.results] == [type(result) for result in results]


@pytest.mark.onebox_only
def test_each_key_has_an_error_when_no_server_answers(
    cluster: Cluster, client: Client, table: Table, spread: dict[tuple[bytes, bytes], bytes]
) -> None:
    cluster.box.fault("drop", rpc="batch_get")
    pairs = list(spread)[:10]
    results = table.batch_get(pairs, return_errors=True, timeout=0.2)
    assert [type(result) for result in results] == [errors.RequestTimeout] * 10
    lost = client.table("no such table").batch_get(pairs, return_errors=True)
    assert [type(result) for result in lost] == [errors.TableNotFound] * 10
    cluster.box.clear_faults()
    cluster.box.fault("error", error="ERR_HANDLER_NOT_FOUND", rpc="batch_get")
    cluster.box.fault("error", error="ERR_ACL_DENY", rpc="get", partition=table.partition_of(*pairs[0]))
    old = table.batch_get(pairs, return_errors=True)
    assert isinstance(old[0], errors.AccessDenied)
    assert spread[pairs[-1]] in old or table.partition_of(*pairs[-1]) == table.partition_of(*pairs[0])


def test_a_value_that_cannot_be_decoded_is_an_error_of_its_key(
    client: Client, cluster: Cluster, table: Table, hash_key: bytes
) -> None:
    table.multi_set(hash_key, {"good": "[1]", "bad": "["})
    coded = client.table(cluster.table, codec=JsonCodec())
    good, bad = coded.batch_get([(hash_key, "good"), (hash_key, "bad")], return_errors=True)
    assert good == [1]
    assert isinstance(bad, errors.CodecError)
    with pytest.raises(errors.CodecError):
        coded.batch_get([(hash_key, "good"), (hash_key, "bad")])


@pytest.mark.onebox_only
def test_refused_requests_are_repeated(
    cluster: Cluster, table: Table, spread: dict[tuple[bytes, bytes], bytes]
) -> None:
    cluster.box.fault("cut", rpc="batch_get", when="after", count=2)
    cluster.box.fault("error", error="ERR_INVALID_STATE", rpc="batch_get", after=5, count=2)
    assert table.batch_get(spread) == list(spread.values())
    cluster.box.fault("error", error="ERR_CAPACITY_EXCEEDED", rpc="batch_get", count=1)
    with pytest.raises(PegasusError):
        table.batch_get(spread, retry=None)


@pytest.mark.onebox_only
def test_one_deadline_bounds_all_requests(
    cluster: Cluster, table: Table, spread: dict[tuple[bytes, bytes], bytes]
) -> None:
    cluster.box.fault("drop", rpc="batch_get", partition=2)
    with gevent.Timeout(10), pytest.raises(TimeoutError):
        table.batch_get(spread, timeout=0.2)


@pytest.mark.onebox_only
def test_servers_without_batch_get(
    cluster: Cluster, table: Table, spread: dict[tuple[bytes, bytes], bytes], hash_key: bytes
) -> None:
    cluster.box.fault("error", error="ERR_HANDLER_NOT_FOUND", rpc="batch_get")
    keys = [*spread, (hash_key, b"none")]
    assert table.batch_get(keys, default="-") == [*spread.values(), "-"]
    cluster.box.fault("error", error="ERR_ACL_DENY", rpc="get", partition=3)
    with pytest.raises(PegasusError, match="ACL_DENY"):
        table.batch_get(keys)


# --------------------------------------------------------------------------------------------------------------- splits
@pytest.fixture
def splitting(
    cluster: Cluster, client: Client, hash_key: bytes
) -> Iterator[tuple[Table, dict[tuple[bytes, bytes], bytes]]]:
    """Store records in a table of its own with 4 partitions."""
    name = "split_" + hash_key[-32:].decode()
    cluster.box.create_table(name, 4)
    table = client.table(name)
    stored = {(b"key-%d" % index, b"s"): b"value %d" % index for index in range(300)}
    table.set_many([(*pair, value) for pair, value in stored.items()])
    yield table, stored
    if not cluster.box.split_status(name):
        cluster.box.drop_table(name)


@pytest.mark.onebox_only
def test_values_are_complete_and_current_after_a_split(cluster: Cluster, splitting: Any) -> None:
    """The parents still have old copies of the children's rows and return them without an error."""
    table, stored = splitting
    assert table.batch_get(stored) == list(stored.values())
    cluster.box.split(table.name, stepwise=True)
    cluster.box.finish_split(table.name)
    with Client(cluster.metas) as other:
        new = {pair: b"new " + value for pair, value in stored.items()}
        other.table(table.name).set_many([(*pair, value) for pair, value in new.items()])
    assert table._dispatcher.routes.table.count == 4
    assert table.batch_get(stored) == list(new.values())
    assert table._dispatcher.routes.table.count == 8


@pytest.mark.onebox_only
def test_values_are_complete_while_the_table_splits(cluster: Cluster, splitting: Any) -> None:
    table, stored = splitting
    cluster.box.split(table.name, stepwise=True)
    for _ in range(8):
        cluster.box.split_step(table.name)
        # A parent that registers its child answers ERR_SPLITTING until the next step.
        later = gevent.spawn_later(0.05, cluster.box.split_step, table.name)
        assert table.batch_get(stored, timeout=5) == list(stored.values())
        later.get()
    assert cluster.box.split_status(table.name) == {}


@pytest.mark.onebox_only
def test_an_answer_of_the_wrong_partition_is_requested_again(
    cluster: Cluster, splitting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two splits a group may belong to several partitions, and not every wrong answer is an error."""
    table, stored = splitting
    assert table.batch_get(stored) == list(stored.values())
    for _ in range(2):
        cluster.box.split(table.name, stepwise=True)
        cluster.box.finish_split(table.name)
    with Client(cluster.metas) as other:
        new = {pair: b"new " + value for pair, value in stored.items()}
        other.table(table.name).set_many([(*pair, value) for pair, value in new.items()])
    assert table._dispatcher.routes.table.count == 4
    assert table.batch_get(stored) == list(new.values())
    assert table._dispatcher.routes.table.count == 16


@pytest.mark.onebox_only
@pytest.mark.parametrize("splits", [1, 2, 3])
def test_splits_that_no_other_request_notices(cluster: Cluster, splitting: Any, splits: int) -> None:
    """The call sends one request. Without a refusal, the client would not learn that its routes are outdated."""
    table, stored = splitting
    parts: dict[int, list[tuple[bytes, bytes]]] = {}
    for pair in stored:
        parts.setdefault(crc64(pair[0]) % 32, []).append(pair)
    # Partition 1 of 4 has all these keys. Only the last split moves one of them away.
    keys = [*parts[1][:2], parts[1 + 4 * 2 ** (splits - 1)][0], parts[1][2]]
    assert table.batch_get(keys) == [stored[pair] for pair in keys]
    for _ in range(splits):
        cluster.box.split(table.name, stepwise=True)
        cluster.box.finish_split(table.name)
    with Client(cluster.metas) as other:
        other.table(table.name).set_many([(*pair, b"new") for pair in keys])
        other.table(table.name).set(keys[2][0], b"late", b"new")
    assert table._dispatcher.routes.table.count == 4
    assert table.batch_get([*keys, (keys[2][0], b"late")]) == [b"new"] * 5


@pytest.mark.onebox_only
def test_an_error_leaves_no_record_unread_after_a_split(cluster: Cluster, splitting: Any) -> None:
    """The results in the error show no record as absent that the wrong partition has not found."""
    table, stored = splitting
    assert table.batch_get(stored) == list(stored.values())
    for _ in range(2):
        cluster.box.split(table.name, stepwise=True)
        cluster.box.finish_split(table.name)
    cluster.box.fault("error", error="ERR_ACL_DENY", rpc="batch_get", partition=1, count=1)
    with pytest.raises(errors.AccessDenied) as caught:
        table.batch_get(stored)
    for result, value in zip(caught.value.results, stored.values()):
        assert result == value or isinstance(result, errors.AccessDenied)
    assert any(type(result) is bytes for result in caught.value.results)


@pytest.mark.onebox_only
@pytest.mark.parametrize("partitions", [1, 3])
def test_any_number_of_partitions(cluster: Cluster, client: Client, hash_key: bytes, partitions: int) -> None:
    name = f"odd{partitions}_" + hash_key[-32:].decode()
    cluster.box.create_table(name, partitions)
    table = client.table(name)
    stored = {(b"key-%d" % index, b"s"): b"value %d" % index for index in range(100)}
    table.set_many([(*pair, value) for pair, value in stored.items()])
    assert table.batch_get(stored) == list(stored.values())
    # The paths of other calls: of one record, and of one record with the default options in a greenlet.
    assert all(table.exist(*pair) for pair in stored)
    get: Any = table.get
    gets = [gevent.spawn(get, *pair) for pair in stored]
    assert [caller.get() for caller in gets] == list(stored.values())
    cluster.box.drop_table(name)


def test_a_killed_caller_leaves_nothing_behind(
    cluster: Cluster, table: Table, spread: dict[tuple[bytes, bytes], bytes]
) -> None:
    table.batch_get(spread)
    for pause in (0.0, 0.001, 0.003):
        job = gevent.spawn(table.batch_get, spread)
        gevent.sleep(pause)
        job.kill()
    assert table.batch_get(spread) == list(spread.values())
    assert all(connection.in_flight == 0 for connection in table.client._cluster.pool.connections)


def test_too_large_keys_are_refused_before_sending(table: Table) -> None:
    with pytest.raises(InvalidArgument, match="65534"):
        table.batch_get([(b"x" * 65535, b"")])
