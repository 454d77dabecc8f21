"""Test filters, check types and results: protocol numbers, refused arguments, reprs."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pegasus_green.admin.model import (
    MetaLevel,
    NodeInfo,
    PartitionInfo,
    SplitState,
    SplitStatus,
    TableInfo,
    TableStatus,
)
from pegasus_green.errors import CodecError, InvalidArgument, NotAnInteger
from pegasus_green.model import NO_FILTER, CheckType, Filter, FilterType
from pegasus_green.results import CheckResult, MultiGetResult, SortKeys

# The protocol's order of cas_check_type, from 0 on.
CHECKS = re.findall(
    r"\w+",
    "NO_CHECK NOT_EXIST NOT_EXIST_OR_EMPTY EXIST NOT_EMPTY MATCH_ANYWHERE MATCH_PREFIX MATCH_POSTFIX"
    " BYTES_LESS BYTES_LESS_OR_EQUAL BYTES_EQUAL BYTES_GREATER_OR_EQUAL BYTES_GREATER"
    " INT_LESS INT_LESS_OR_EQUAL INT_EQUAL INT_GREATER_OR_EQUAL INT_GREATER",
)


def test_numbers_are_those_of_the_protocol() -> None:
    assert [check.name for check in CheckType] == CHECKS
    assert [int(check) for check in CheckType] == list(range(18))
    assert [kind.name for kind in FilterType] == ["NO_FILTER", "MATCH_ANYWHERE", "MATCH_PREFIX", "MATCH_POSTFIX"]
    assert [int(kind) for kind in FilterType] == [0, 1, 2, 3]
    assert [(status.name, int(status)) for status in TableStatus][:3] == [
        ("INVALID", 0),
        ("AVAILABLE", 1),
        ("CREATING", 2),
    ]
    assert int(TableStatus.DROPPED) == 6
    assert [int(level) for level in MetaLevel] == [100, 200, 300, 400, 500]
    assert [int(state) for state in SplitState] == [0, 1, 2, 3, 4]


def test_check_types_that_compare_values() -> None:
    assert [check.name for check in CheckType if check.takes_operand] == CHECKS[5:]
    assert [check.name for check in CheckType if check.is_integer] == CHECKS[13:]


def test_filters_are_made_and_compared() -> None:
    assert Filter.prefix("é") == Filter(FilterType.MATCH_PREFIX, "é".encode())
    assert Filter(2, "x") == Filter.prefix(b"x")  # type: ignore[arg-type]
    assert Filter.anywhere(b"") != NO_FILTER
    assert hash(Filter.postfix(b"x")) == hash(Filter.postfix("x"))
    with pytest.raises(AttributeError):
        NO_FILTER.pattern = b"x"  # type: ignore[misc]


@pytest.mark.parametrize(("kind", "pattern"), [(4, b""), (-1, b""), ("prefix", b""), (None, b""), (2, 7), (2, None)])
def test_invalid_filters_are_refused(kind: Any, pattern: Any) -> None:
    with pytest.raises(InvalidArgument):
        Filter(kind, pattern)


@given(st.binary(max_size=6), st.binary(max_size=3))
def test_filters_accept_what_servers_accept(key: bytes, pattern: bytes) -> None:
    assert Filter.prefix(pattern).accepts(key) == key.startswith(pattern)
    assert Filter.postfix(pattern).accepts(key) == key.endswith(pattern)
    assert Filter.anywhere(pattern).accepts(key) == (pattern in key)
    assert NO_FILTER.accepts(key)


def test_rows_are_a_dict_with_a_complete_flag() -> None:
    found = MultiGetResult([(b"a", b"1"), (b"b", b"2")], complete=False, last_key=b"b")
    assert found == {b"a": b"1", b"b": b"2"}
    assert list(found) == [b"a", b"b"]
    assert repr(found) == "MultiGetResult({b'a': b'1', b'b': b'2'}, complete=False)"
    assert MultiGetResult().complete
    assert MultiGetResult().last_key is None
    copy = pickle.loads(pickle.dumps(found))
    assert (copy, copy.complete, copy.last_key, type(copy)) == (found, False, b"b", MultiGetResult)


def test_sort_keys_are_a_list_with_a_complete_flag() -> None:
    found = SortKeys([b"a"], complete=False, last_key=b"a")
    assert found == [b"a"]
    assert repr(found) == "SortKeys([b'a'], complete=False)"
    copy = pickle.loads(pickle.dumps(found))
    assert (copy, copy.complete, copy.last_key, type(copy)) == (found, False, b"a", SortKeys)


class _Fails:
    def encode(self, value: Any) -> bytes:
        return bytes(value)

    def decode(self, raw: bytes) -> Any:
        raise CodecError("none of mine")


def test_a_check_result_has_its_outcome_even_if_decoding_fails() -> None:
    result = CheckResult(True, True, b"\xff", _Fails())
    assert result
    assert result.was_set
    with pytest.raises(CodecError):
        _ = result.check_value
    assert not CheckResult(False)
    assert CheckResult(False, False, None, _Fails()).check_value is None
    assert CheckResult(True, True, b"x").check_value == b"x"
    assert CheckResult(True, True, b"x") == CheckResult(True, True, b"x", _Fails())


def test_a_check_result_is_pickled_without_its_codec() -> None:
    codec = _Fails()
    codec.module = pickle  # type: ignore[attr-defined]
    result = CheckResult(False, True, b"x", codec)
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert copy.codec is None
    error = pickle.loads(pickle.dumps(NotAnInteger("no integer", result=result)))
    assert error.result.raw_check_value == error.result.check_value == b"x"


def test_reprs_show_the_fields() -> None:
    table = TableInfo(3, "temp", TableStatus.AVAILABLE, 8, 3, {"default_ttl": "60"})
    assert repr(table) == "<Table 3 'temp' AVAILABLE partitions=8 replicas=3 envs={'default_ttl': '60'}>"
    assert "status 9" not in repr(TableInfo(3, "temp", 9, 8, 3, {}))
    assert " 9 " in repr(TableInfo(3, "temp", 9, 8, 3, {}))
    partition = PartitionInfo(1, 4, "a:1", ("b:1",), 3)
    assert repr(partition) == "<Partition 1 ballot=4 primary=a:1 secondaries=b:1>"
    assert not partition.is_healthy
    assert PartitionInfo(1, 4, "a:1", ("b:1", "c:1"), 3).is_healthy
    assert not PartitionInfo(1, 4, "", ("b:1", "c:1", "d:1"), 3).is_healthy
    assert repr(NodeInfo("a:1", False)) == "<Node a:1 dead>"
    assert repr(SplitStatus(8, {1: 1, 3: 3})) == "<Split to 8 partitions, 2 of 4 done, PAUSED, SPLITTING>"
