"""Test a hash key as a mutable mapping: the methods of a dict, lazy iteration, atomic pop."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, MutableMapping
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pegasus_green import Client, CodecError, CountUnknown, InvalidArgument, JsonCodec, PegasusError, Table, ZstdCodec
from pegasus_green.mapping import HashMapping
from tests.conftest import Cluster
from tests.integration.helpers import nearly, no_client_bugs, pass_time, refused, rows

__all__ = ["no_client_bugs"]


@pytest.fixture
def mapping(table: Table, hash_key: bytes) -> Iterator[HashMapping]:
    yield table.mapping(hash_key)
    table.del_range(hash_key)


def test_mapping_is_a_mutable_mapping(mapping: HashMapping, hash_key: bytes) -> None:
    assert isinstance(mapping, MutableMapping)
    assert (mapping.hash_key, mapping.table.name) == (
        hash_key,
        "temp" if not mapping.table.name else mapping.table.name,
    )
    assert repr(mapping) == f"<HashMapping {mapping.table.name} {hash_key!r}>"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(mapping)


def test_items_are_stored_read_and_removed(mapping: HashMapping) -> None:
    mapping["b"] = "2"
    mapping[b"a"] = b"1"
    mapping["ü"] = ""
    assert mapping["a"] == mapping[b"a"] == b"1"
    assert mapping["ü"] == b""
    assert len(mapping) == 3
    assert list(mapping) == list(mapping.keys()) == [b"a", b"b", "ü".encode()]
    assert list(mapping.values()) == [b"1", b"2", b""]
    assert dict(mapping.items()) == dict(mapping) == {b"a": b"1", b"b": b"2", "ü".encode(): b""}
    assert mapping == {b"a": b"1", b"b": b"2", "ü".encode(): b""}
    assert mapping != {}
    del mapping["b"]
    assert list(mapping) == [b"a", "ü".encode()]


def test_absent_keys_raise_key_error_or_give_the_default(mapping: HashMapping) -> None:
    for call in (lambda: mapping["x"], lambda: mapping.pop("x"), mapping.popitem, lambda: mapping.__delitem__("x")):
        with pytest.raises(KeyError):
            call()
    assert mapping.get("x") is None
    assert mapping.get("x", 7) == 7
    assert mapping.pop("x", None) is None
    assert "x" not in mapping  # type: ignore[comparison-overlap]
    assert 7 not in mapping  # type: ignore[comparison-overlap]
    assert "\ud800" not in mapping  # type: ignore[comparison-overlap]
    assert None not in mapping
    assert not mapping
    assert len(mapping) == 0
    assert list(mapping.items()) == []


def test_contains_and_bool(mapping: HashMapping) -> None:
    mapping["x"] = ""
    assert "x" in mapping  # type: ignore[comparison-overlap]
    assert b"x" in mapping
    assert bytearray(b"x") in mapping
    assert mapping
    assert b"" in mapping.values()
    assert b"other" not in mapping.values()
    assert (b"x", b"") in mapping.items()
    assert (b"x", b"1") not in mapping.items()
    assert b"x" in mapping.keys()  # noqa: SIM118 - the view itself


def test_pop_and_setdefault(mapping: HashMapping) -> None:
    assert mapping.setdefault("a", "1") == b"1"
    assert mapping.setdefault("a", "2") == b"1"
    assert mapping.pop("a", "none") == b"1"
    assert mapping.pop("a", "none") == "none"
    mapping.update({"b": "2", "a": "1"})
    assert mapping.popitem() == (b"a", b"1")
    assert mapping.popitem() == (b"b", b"2")


def test_update_and_clear(mapping: HashMapping) -> None:
    mapping.update({"a": "1"}, b="2")
    mapping.update([("c", "3"), (b"a", b"4")])
    mapping.update()
    mapping.update(d="5")
    assert dict(mapping) == {b"a": b"4", b"b": b"2", b"c": b"3", b"d": b"5"}
    mapping.clear()
    assert dict(mapping) == {}
    mapping.clear()


def test_ttls(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    brief = table.mapping(hash_key, ttl=4)
    brief["a"] = "1"
    brief.update({"b": "2"})
    assert brief.setdefault("c", "3") == b"3"
    table.mapping(hash_key)["d"] = "4"
    assert all(nearly(table.ttl(hash_key, key), 4) for key in "abc")
    pass_time(cluster, 5)
    assert dict(brief) == {b"d": b"4"}
    assert brief.setdefault("a", "5") == b"5"


def test_other_objects_are_not_in_items(mapping: HashMapping) -> None:
    mapping["a"] = "1"
    items: Any = mapping.items()
    assert ("a", b"1") in items
    for item in (("a", b"2"), ("b", b"1"), (5, b"1"), "a1", None):
        assert item not in items


def test_values_use_the_codec(table: Table, hash_key: bytes) -> None:
    documents = table.client.table(table.name, codec=JsonCodec()).mapping(hash_key)
    documents["a"] = {"n": [1]}
    assert documents.setdefault("b", (1, 2)) == [1, 2]
    assert documents.setdefault("b") == [1, 2]
    assert documents.setdefault("none") is None
    assert list(documents.values()) == [{"n": [1]}, [1, 2], None]
    assert documents["none"] is None
    assert documents.pop("a") == {"n": [1]}


def test_iteration_is_lazy_and_allows_changes(table: Table, mapping: HashMapping, hash_key: bytes) -> None:
    table.multi_set(hash_key, rows(2500), split=True)
    seen = []
    for key in mapping:
        seen.append(key)
        del mapping[key]
        if len(seen) == 50:
            break
    assert seen == list(rows(50))
    assert len(mapping) == 2450
    assert sum(1 for _ in mapping.items()) == 2450


@pytest.mark.onebox_only
def test_leaving_a_loop_frees_the_scan_context(
    cluster: Cluster, table: Table, mapping: HashMapping, hash_key: bytes
) -> None:
    table.multi_set(hash_key, rows(2500), split=True)

    def contexts() -> int:
        return sum(
            len(replica.engine.contexts) for server in cluster.box.servers for replica in server.replicas.values()
        )

    before = contexts()
    items = iter(mapping.items())
    next(items)
    assert contexts() == before + 1
    del items
    for _ in mapping:
        break
    assert mapping
    gevent.sleep(0.05)
    assert contexts() == before


def test_one_of_many_callers_pops_the_row(mapping: HashMapping) -> None:
    mapping.update({str(index): str(index) for index in range(20)})
    taken = [gevent.spawn(mapping.popitem) for _ in range(20)]
    gevent.joinall(taken, raise_error=True)
    assert sorted(int(job.get()[0]) for job in taken) == list(range(20))
    created = [gevent.spawn(mapping.setdefault, "one", str(index)) for index in range(20)]
    gevent.joinall(created, raise_error=True)
    assert {job.get() for job in created} == {mapping["one"]}


@pytest.mark.onebox_only
def test_errors_of_calls_are_not_key_errors(cluster: Cluster, mapping: HashMapping) -> None:
    mapping["a"] = "1"
    cluster.box.fault("error", error="ERR_ACL_DENY", rpc="data")
    for call in (lambda: mapping["a"], lambda: b"a" in mapping, lambda: list(mapping), lambda: len(mapping)):
        with pytest.raises(PegasusError):
            call()
    cluster.box.clear_faults()
    cluster.box.set_envs(mapping.table.name, {"replica.rocksdb_iteration_threshold_time_ms": "1"})
    try:
        mapping.update({str(index): "" for index in range(1000)})
        with pytest.raises(CountUnknown):
            len(mapping)
    finally:
        cluster.box.set_envs(mapping.table.name, {"replica.rocksdb_iteration_threshold_time_ms": None})


def test_pop_of_an_undecodable_value_raises_with_the_removed_bytes(table: Table, hash_key: bytes) -> None:
    documents = table.client.table(table.name, codec=JsonCodec()).mapping(hash_key)
    table.multi_set(hash_key, {"a": b"{", "b": b"[", "c": b"]"})
    del documents["a"]
    with pytest.raises(CodecError, match="was removed") as caught:
        documents.pop("b")
    assert pickle.loads(pickle.dumps(caught.value)).raw == b"["
    with pytest.raises(CodecError) as caught:
        documents.popitem()
    assert caught.value.raw == b"]"
    assert not documents


def test_update_accepts_objects_with_keys(mapping: HashMapping) -> None:
    class Rows:
        def keys(self) -> list[str]:
            return ["a", "b"]

        def __getitem__(self, key: str) -> str:
            return {"a": "aa", "b": "bb"}[key]

    mapping.update(Rows())  # type: ignore[call-overload]
    assert dict(mapping) == {b"a": b"aa", b"b": b"bb"}


def test_invalid_keys_and_values_are_refused(mapping: HashMapping) -> None:
    for call in (
        lambda: mapping[7],  # type: ignore[index]
        lambda: mapping.__setitem__("a", 7),
        lambda: mapping.update({7: "a"}),  # type: ignore[arg-type]
        lambda: mapping.update({"a": 7}),
        lambda: mapping.setdefault("a"),
        lambda: mapping.pop(7, None),  # type: ignore[call-overload]
    ):
        with pytest.raises(InvalidArgument):
            call()
    assert not mapping


@pytest.mark.parametrize("options", [{"ttl": "x"}, {"ttl": -1}, {"ttl": math.nan}, {"timeout": -1}, {"timeout": "x"}])
def test_a_mapping_with_invalid_options_is_refused(client: Client, table: Table, options: Any) -> None:
    refused(client, lambda: table.mapping("h", **options), next(iter(options)))


KEYS = st.binary(max_size=8)
VALUES = st.binary(max_size=60) | st.builds(
    lambda part, times: part * times, st.binary(max_size=4), st.integers(0, 500)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=5,
)
IN_BOX = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@IN_BOX
@given(stored=st.dictionaries(KEYS, VALUES, max_size=6), one=KEYS)
def test_arbitrary_bytes_round_trip(
    cluster: Cluster, client: Client, hash_key: bytes, stored: dict[bytes, bytes], one: bytes
) -> None:
    for codec in (None, ZstdCodec()):
        mapping = client.table(cluster.table, codec=codec).mapping(hash_key)
        mapping.clear()
        mapping.update(stored)
        assert dict(mapping) == stored
        assert list(mapping) == sorted(stored)
        assert mapping.get(one) == stored.get(one)
        assert mapping.pop(one, None) == stored.get(one)
        assert len(mapping) == len(stored.keys() - {one})


@IN_BOX
@given(stored=st.dictionaries(KEYS, JSON, max_size=5))
def test_arbitrary_values_round_trip(
    cluster: Cluster, client: Client, hash_key: bytes, stored: dict[bytes, Any]
) -> None:
    for codec in (JsonCodec(), ZstdCodec(JsonCodec(), least=0)):
        table = client.table(cluster.table, codec=codec)
        mapping = table.mapping(hash_key)
        mapping.clear()
        mapping.update(stored)
        assert dict(mapping) == stored
        assert table.multi_get(hash_key) == stored
        assert table.batch_get([(hash_key, key) for key in stored]) == list(stored.values())
        assert table.get_many([(hash_key, key) for key in stored]) == list(stored.values())
