"""Test check_and_set and check_and_mutate with every check type, compare_exchange, and counters under faults."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from pegasus_green import (
    CallInfo,
    CheckType,
    Client,
    JsonCodec,
    NotAnInteger,
    PegasusError,
    Table,
    Utf8Codec,
    ZstdCodec,
)
from pegasus_green.operations.atomic import Mutations
from pegasus_green.results import CheckResult
from tests.conftest import Cluster
from tests.integration.helpers import BINARY, nearly, no_client_bugs, pass_time, refused

__all__ = ["no_client_bugs"]

ABSENT = None
VALUES = [
    ABSENT,
    b"",
    b"a",
    b"ab",
    b"abc",
    b"b",
    b"\xff",
    b"\0",
    b"0",
    b"7",
    b"-7",
    b"0x7",
    b"007",
    b" 7",
    b"7 ",
    b"x7",
]
OPERANDS = [b"", b"a", b"ab", b"bc", b"b", b"\xff", b"\0", b"7", b"-8", b"0x7", b"08", b"7 ", b"9223372036854775808"]
INVALID = "invalid"


def integer(text: bytes) -> int | None:
    """Read an integer like the server: like strtoll of C with base 0, the whole text, within 64 bits."""
    digits = text.lstrip(b" \t\n\v\f\r")
    sign = -1 if digits[:1] == b"-" else 1
    digits = digits[1:] if digits[:1] in (b"-", b"+") else digits
    if not digits or not digits.isalnum():
        return None
    base = 16 if digits[:2].lower() == b"0x" else 8 if digits[:1] == b"0" and len(digits) > 1 else 10
    try:
        number = sign * int(digits, base)
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None


def verdict(check: CheckType, value: bytes | None, operand: bytes) -> bool | str:
    """Return whether a check passes, or that it cannot be made."""
    if check == CheckType.NO_CHECK:
        return True
    if value is None:
        return check in (CheckType.NOT_EXIST, CheckType.NOT_EXIST_OR_EMPTY)
    simple = {
        CheckType.NOT_EXIST: False,
        CheckType.NOT_EXIST_OR_EMPTY: not value,
        CheckType.EXIST: True,
        CheckType.NOT_EMPTY: bool(value),
        CheckType.MATCH_ANYWHERE: operand in value,
        CheckType.MATCH_PREFIX: value.startswith(operand),
        CheckType.MATCH_POSTFIX: value.endswith(operand),
    }
    if check in simple:
        return simple[check]
    left, right = (integer(value), integer(operand)) if check.is_integer else (value, operand)
    if left is None or right is None:
        return INVALID
    name = check.name.removeprefix("INT_").removeprefix("BYTES_")
    less, equal = left < right, left == right  # type: ignore[operator]
    return {
        "LESS": less,
        "LESS_OR_EQUAL": less or equal,
        "EQUAL": equal,
        "GREATER_OR_EQUAL": not less,
        "GREATER": not less and not equal,
    }[name]


def prepare(table: Table, hash_key: bytes, value: bytes | None) -> None:
    if value is None:
        table.multi_del(hash_key, ["check", "other"])
    else:
        table.remove(hash_key, "other")
        table.set(hash_key, "check", value)


def cases(check: CheckType) -> list[tuple[bytes | None, bytes | None]]:
    return list(itertools.product(VALUES, OPERANDS if check.takes_operand else [None]))


@pytest.mark.parametrize("check", CheckType)
def test_check_and_set_with_every_check_type(table: Table, hash_key: bytes, check: CheckType) -> None:
    """All pairs of values and operands; another record is written, and the checked value is returned."""
    outcomes = set()
    for value, operand in cases(check):
        prepare(table, hash_key, value)
        expected = verdict(check, value, operand or b"")
        outcomes.add(expected)
        try:
            result = table.check_and_set(
                hash_key, "check", check, operand, value="new", sort_key="other", return_check_value=True
            )
        except NotAnInteger as error:
            raised: Any = error
            result = raised.result
            assert (expected, raised.status, raised.operation) == (INVALID, 4, "check_and_set"), (value, operand)
        else:
            assert result.was_set is bool(result) is expected, (value, operand)
        assert result.check_value_exists == (value is not None)
        assert result.check_value == value
        assert table.get(hash_key, "check") == value
        assert table.get(hash_key, "other") == (b"new" if expected is True else None)
    # The pairs give all possible results of this check.
    assert outcomes >= ({True} if check == CheckType.NO_CHECK else {True, False})
    assert (INVALID in outcomes) == check.is_integer


@pytest.mark.parametrize("check", CheckType)
def test_check_and_mutate_with_every_check_type(table: Table, hash_key: bytes, check: CheckType) -> None:
    changes = Mutations().put("other", "new").delete("check")
    for value, operand in cases(check)[:: 3 if check.takes_operand else 1]:
        prepare(table, hash_key, value)
        expected = verdict(check, value, operand or b"")
        try:
            result = table.check_and_mutate(hash_key, "check", check, operand, mutations=changes)
        except NotAnInteger as error:
            operation = error.operation
            assert (expected, operation) == (INVALID, "check_and_mutate"), (value, operand)
            result = CheckResult(False)
        assert result.was_set is (expected is True), (value, operand)
        assert result.check_value_exists is None
        assert result.check_value is None
        assert table.get(hash_key, "other") == (b"new" if expected is True else None)
        assert table.get(hash_key, "check") == (None if expected is True else value)


def test_the_checked_sort_key_may_be_the_written_one(table: Table, hash_key: bytes) -> None:
    result = table.check_and_set(hash_key, "s", CheckType.NOT_EXIST, value="1", return_check_value=True)
    assert result == CheckResult(True, False, None)
    assert table.check_and_set(hash_key, "s", CheckType.EXIST, value="2", sort_key=b"s")
    result = table.check_and_set(hash_key, "s", CheckType.NOT_EXIST, value="3", return_check_value=True)
    assert result == CheckResult(False, True, b"2")
    assert not table.check_and_set(hash_key, "s", CheckType.NOT_EXIST, value="3")
    assert table.get(hash_key, "s") == b"2"


def test_empty_and_binary_sort_keys(table: Table, hash_key: bytes) -> None:
    assert table.check_and_set(hash_key, "", CheckType.NOT_EXIST, value=BINARY, sort_key=BINARY)
    assert table.get(hash_key, BINARY) == BINARY
    assert table.get(hash_key, "") is None
    result = table.check_and_set(hash_key, BINARY, CheckType.BYTES_EQUAL, BINARY, value="", return_check_value=True)
    assert result == CheckResult(True, True, BINARY)
    assert table.check_and_set(hash_key, BINARY, CheckType.EXIST, value="e", sort_key="")
    assert (table.get(hash_key, BINARY), table.get(hash_key, "")) == (b"", b"e")


def test_an_empty_value_exists(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", b"")
    result = table.check_and_set(hash_key, "s", CheckType.NOT_EXIST_OR_EMPTY, value="1", return_check_value=True)
    assert result == CheckResult(True, True, b"")


def test_an_expired_record_is_absent(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "s", "1", ttl=1)
    pass_time(cluster, 2)
    result = table.check_and_set(hash_key, "s", CheckType.NOT_EXIST, value="2", return_check_value=True)
    assert result == CheckResult(True, False, None)
    assert table.ttl(hash_key, "s") == math.inf


def test_ttl_of_check_and_set(table: Table, hash_key: bytes) -> None:
    table.check_and_set(hash_key, "s", CheckType.NO_CHECK, value="1", ttl=100)
    assert nearly(table.ttl(hash_key, "s"), 100)
    table.check_and_set(hash_key, "s", CheckType.NO_CHECK, value="1")
    assert table.ttl(hash_key, "s") == math.inf


def test_integer_operands(table: Table, hash_key: bytes) -> None:
    table.set(hash_key, "n", "10")
    assert table.check_and_set(hash_key, "n", CheckType.INT_GREATER, 9, value="11")
    assert table.check_and_set(hash_key, "n", CheckType.INT_EQUAL, "0xb", value="-5")
    assert table.check_and_set(hash_key, "n", CheckType.INT_LESS_OR_EQUAL, -5, value=str(-(2**63)))
    assert table.check_and_set(hash_key, "n", CheckType.INT_EQUAL, -(2**63), value=str(2**63 - 1))
    assert table.check_and_set(hash_key, "n", CheckType.INT_EQUAL, 2**63 - 1, value="done")
    # The server does not read the operand if there is no record.
    assert not table.check_and_set(hash_key, "none", CheckType.INT_EQUAL, "no integer", value="x")


# ------------------------------------------------------------------------------------------------------------ mutations
def test_mutations_apply_in_order(table: Table, hash_key: bytes) -> None:
    table.multi_set(hash_key, {"a": "1", "b": "2", "c": "3"})
    changes = Mutations().put("a", "x").put("a", "4").delete("b").delete("c").put("c", "5").put("d", "6").delete("d")
    result = table.check_and_mutate(hash_key, "a", CheckType.EXIST, mutations=changes, return_check_value=True)
    assert result == CheckResult(True, True, b"1")
    assert table.multi_get(hash_key) == {b"a": b"4", b"c": b"5"}
    assert table.check_and_mutate(hash_key, "none", CheckType.NOT_EXIST, mutations=Mutations().delete("none"))


def test_mutations_have_ttls_of_their_own(cluster: Cluster, table: Table, hash_key: bytes) -> None:
    changes = Mutations().put("a", "1", ttl=100).put("b", "2").put("c", "3", ttl=1)
    assert table.check_and_mutate(hash_key, "", CheckType.NO_CHECK, mutations=changes)
    assert nearly(table.ttl(hash_key, "a"), 100)
    assert table.ttl(hash_key, "b") == math.inf
    pass_time(cluster, 2)
    assert table.multi_get(hash_key) == {b"a": b"1", b"b": b"2"}


def test_mutations_can_be_used_again(table: Table, hash_key: bytes) -> None:
    changes = Mutations().put("s", {"n": 1}, ttl=5)
    assert (len(changes), list(changes)) == (1, [(0, b"s", {"n": 1}, 5)])
    assert repr(changes) == "<Mutations put b's'>"
    assert repr(Mutations()) == "<Mutations none>"
    documents = table.client.table(table.name, codec=JsonCodec())
    for _ in range(2):
        assert documents.check_and_mutate(hash_key, "s", CheckType.NO_CHECK, mutations=changes)
    assert table.get(hash_key, "s") == b'{"n":1}'


def test_many_mutations(table: Table, hash_key: bytes) -> None:
    changes = Mutations()
    for index in range(500):
        changes.put(b"%04d" % index, b"%d" % index)
    assert table.check_and_mutate(hash_key, "0000", CheckType.NOT_EXIST, mutations=changes)
    assert table.sort_key_count(hash_key) == 500


# ----------------------------------------------------------------------------------------------------- compare_exchange
def test_compare_exchange(table: Table, hash_key: bytes) -> None:
    result = table.compare_exchange(hash_key, "s", "1", "2")
    assert (result.was_set, result.check_value_exists, result.check_value) == (False, False, None)
    assert table.compare_exchange(hash_key, "s", None, "1")
    result = table.compare_exchange(hash_key, "s", None, "2")
    assert (result.was_set, result.check_value) == (False, b"1")
    assert table.compare_exchange(hash_key, "s", b"1", "2", ttl=50)
    assert nearly(table.ttl(hash_key, "s"), 50)
    result = table.compare_exchange(hash_key, "s", "1", "3")
    assert (bool(result), result.check_value, table.get(hash_key, "s")) == (False, b"2", b"2")
    assert table.compare_exchange(hash_key, "s", "2", b"")
    assert table.compare_exchange(hash_key, "s", b"", "3")
    assert not table.compare_exchange(hash_key, "s", "2", None)
    assert table.compare_exchange(hash_key, "s", "3", None)
    assert not table.exist(hash_key, "s")


def test_compare_exchange_compares_decoded_values(table: Table, hash_key: bytes) -> None:
    """A stored value in another encoding equals the expected value; any other value does not."""
    packed = table.client.table(table.name, codec=ZstdCodec())
    text = b"long and compressible " * 100
    table.set(hash_key, "s", text)
    assert packed.compare_exchange(hash_key, "s", text, text + b"2").check_value == text
    assert table.get(hash_key, "s") != text + b"2"
    table.set(hash_key, "s", ZstdCodec(level=19).encode(text))
    assert packed.compare_exchange(hash_key, "s", text, None)
    documents = table.client.table(table.name, codec=JsonCodec())
    table.set(hash_key, "s", b'{ "b": 1, "a": [2] }')
    assert not documents.compare_exchange(hash_key, "s", {"a": [2], "b": 2}, {})
    assert documents.compare_exchange(hash_key, "s", {"a": [2], "b": 1}, {"c": 3})
    assert table.get(hash_key, "s") == b'{"c":3}'
    table.set(hash_key, "s", b"\xff no JSON")
    assert not documents.compare_exchange(hash_key, "s", {"c": 3}, {})


def test_compare_exchange_never_replaces_another_value(
    table: Table, hash_key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another caller writes between the read of the other form and the exchange."""
    documents = table.client.table(table.name, codec=JsonCodec())
    table.set(hash_key, "s", b'{ "a": 1 }')
    checked = type(table).check_and_set
    looks: list[bool] = []

    def check_and_set(self: Table, *arguments: Any, **options: Any) -> CheckResult:
        if looks:
            monkeypatch.undo()
            table.set(hash_key, "s", b'{"a":2}')
        looks.append(True)
        return checked(self, *arguments, **options)

    monkeypatch.setattr(type(table), "check_and_set", check_and_set)
    result = documents.compare_exchange(hash_key, "s", {"a": 1}, {"a": 3})
    assert (bool(result), result.check_value, looks) == (False, {"a": 2}, [True, True])


# --------------------------------------------------------------------------------------------------------------- codecs
@pytest.mark.parametrize(
    ("codec", "old", "new"),
    [(Utf8Codec(), "ä", "ö"), (JsonCodec(), {"a": [1]}, None), (ZstdCodec(), b"x" * 1000, b""), (None, b"1", b"2")],
    ids=repr,
)
def test_values_go_through_the_codec(table: Table, hash_key: bytes, codec: Any, old: Any, new: Any) -> None:
    coded = table.client.table(table.name, codec=codec)
    result = coded.check_and_set(hash_key, "s", CheckType.NOT_EXIST, value=old, return_check_value=True)
    assert (result.was_set, result.check_value) == (True, None)
    assert coded.get(hash_key, "s") == old
    result = coded.check_and_mutate(
        hash_key, "s", CheckType.EXIST, mutations=Mutations().put("s", new).put("t", old), return_check_value=True
    )
    assert result.check_value == old
    assert coded.multi_get(hash_key) == {b"s": new, b"t": old}


# -------------------------------------------------------------------------------------------------------- in many hands
def test_one_of_many_concurrent_check_and_set_calls_succeeds(table: Table, hash_key: bytes) -> None:
    def claim(index: int) -> bool:
        return bool(table.check_and_set(hash_key, "owner", CheckType.NOT_EXIST, value=f"{index}"))

    jobs = [gevent.spawn(claim, index) for index in range(50)]
    gevent.joinall(jobs, raise_error=True)
    winners = [index for index, job in enumerate(jobs) if job.value]
    assert len(winners) == 1
    assert table.get(hash_key, "owner") == b"%d" % winners[0]


def _add_one(table: Table, hash_key: bytes, outcomes: list[str]) -> None:
    """Count by compare_exchange; note what is known about each exchange."""
    while True:
        old = table.get(hash_key, "n")
        try:
            if table.compare_exchange(hash_key, "n", old, str(int(old or 0) + 1), timeout=5):
                outcomes.append("done")
                return
        except PegasusError as error:
            outcomes.append("unknown" if error.outcome_unknown else "not done")
            return


@pytest.mark.onebox_only
@pytest.mark.parametrize("seed", range(3))
def test_a_counter_is_exact_while_connections_are_cut(
    cluster: Cluster, table: Table, hash_key: bytes, seed: int
) -> None:
    """The value is the number of calls known to be done, plus at most those with unknown outcome."""
    cluster.box.random.seed(seed)
    for when in ("before", "during", "after"):
        cluster.box.fault("cut", rpc="check_and_set", when=when, contains=hash_key, probability=0.003)
    outcomes: list[str] = []

    def work() -> None:
        while outcomes.count("done") < 80:
            _add_one(table, hash_key, outcomes)
            gevent.sleep(random.random() / 100)

    gevent.joinall([gevent.spawn(work) for _ in range(50)], raise_error=True)
    cluster.box.clear_faults()
    done, unknown = outcomes.count("done"), outcomes.count("unknown")
    value = int(table.get(hash_key, "n", default=b""))
    assert done <= value <= done + unknown
    assert unknown > 0


@pytest.mark.onebox_only
@pytest.mark.parametrize("verb", ["check_and_set", "check_and_mutate"])
def test_atomic_writes_with_unknown_outcome_are_not_repeated(
    cluster: Cluster, table: Table, hash_key: bytes, verb: str
) -> None:
    data: dict[str, Any] = {"value": "1"} if verb == "check_and_set" else {"mutations": Mutations().put("s", "1")}
    cluster.box.fault("cut", rpc=verb, when="after", contains=hash_key, count=1)
    with pytest.raises(PegasusError) as caught:
        getattr(table, verb)(hash_key, "s", CheckType.NOT_EXIST, **data)
    assert caught.value.outcome_unknown
    assert cluster.box.executions(hash_key) == 1
    assert table.get(hash_key, "s") == b"1"
    # A refused write was not applied and is sent again.
    cluster.box.fault("error", error="ERR_CAPACITY_EXCEEDED", rpc=verb, contains=hash_key, count=1)
    info = CallInfo()
    assert getattr(table, verb)(hash_key, "s", CheckType.EXIST, info=info, **data)
    assert info.attempts == 2
    assert info.decree > 0


# ------------------------------------------------------------------------------------------------------------ arguments
CALLS: dict[str, Callable[..., Any]] = {
    "set": lambda table, key, sort_key, check, operand=None: table.check_and_set(
        key, sort_key, check, operand, value="v"
    ),
    "mutate": lambda table, key, sort_key, check, operand=None: table.check_and_mutate(
        key, sort_key, check, operand, mutations=Mutations().delete("x")
    ),
}


@pytest.mark.parametrize("verb", CALLS)
def test_bad_checks_are_not_sent(client: Client, table: Table, verb: str) -> None:
    call = CALLS[verb]
    for bad in (b"", "", 7, None, b"x" * 65535):
        refused(client, lambda bad=bad: call(table, bad, "s", CheckType.EXIST), "hash_key")
    refused(client, lambda: call(table, "h", 7, CheckType.EXIST), "check_sort_key")
    for bad_check in (-1, 18, 100, "EXIST", None):
        refused(client, lambda bad=bad_check: call(table, "h", "s", bad), "CheckType")
    for check in CheckType:
        if check.takes_operand:
            refused(client, lambda check=check: call(table, "h", "s", check), check.name, "needs an operand")
            refused(client, lambda check=check: call(table, "h", "s", check, 1.5), "operand")
            refused(client, lambda check=check: call(table, "h", "s", check, True), "operand")
        else:
            refused(client, lambda check=check: call(table, "h", "s", check, b""), check.name, "no operand")
    refused(client, lambda: call(table, "h", "s", CheckType.INT_LESS, 2**63), "64-bit")
    refused(client, lambda: call(table, "h", "s", CheckType.INT_LESS, -(2**63) - 1), "64-bit")
    refused(client, lambda: call(table, "h", "s", CheckType.BYTES_LESS, 7), "bytes or str")


@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.check_and_set("h", "s", CheckType.EXIST, value=1),
        lambda table: table.check_and_set("h", "s", CheckType.EXIST, value="v", sort_key=1),
        lambda table: table.check_and_set("h", "s", CheckType.EXIST, value="v", ttl=-1),
        lambda table: table.check_and_set("h", "s", CheckType.EXIST, value=bytes(2**20)),
        lambda table: table.check_and_set("h", "s", CheckType.BYTES_EQUAL, bytes(2**20), value=""),
        lambda table: table.check_and_mutate("h", "s", CheckType.EXIST, mutations=Mutations()),
        lambda table: table.check_and_mutate("h", "s", CheckType.EXIST, mutations=None),
        lambda table: table.check_and_mutate("h", "s", CheckType.EXIST, mutations=[(0, b"s", b"v", 0)]),
        lambda table: table.check_and_mutate("h", "s", CheckType.EXIST, mutations=Mutations().put("s", 1)),
        lambda table: table.check_and_mutate("h", "s", CheckType.EXIST, mutations=Mutations().put("s", bytes(2**20))),
        lambda _table: Mutations().put(1, "v"),  # type: ignore[arg-type]
        lambda _table: Mutations().put("s", "v", ttl=-1),
        lambda _table: Mutations().delete(None),  # type: ignore[arg-type]
        lambda table: table.compare_exchange("", "s", "a", "b"),
        lambda table: table.compare_exchange("h", "s", 1, "b"),
        lambda table: table.compare_exchange("h", "s", "a", 1),
        lambda table: table.compare_exchange("h", "s", "a", "b", ttl=-1),
    ],
    ids=itertools.count(),
)
def test_bad_arguments_are_not_sent(client: Client, table: Table, call: Callable[[Table], Any]) -> None:
    refused(client, lambda: call(table))


@pytest.mark.parametrize(
    ("codec", "stored", "expected"),
    [
        (JsonCodec(), b"[1, 2]", (1, 2)),
        (JsonCodec(), b'{"1": 2}', {1: 2}),
        (JsonCodec(), b'{"a": 1, "b": 2}', {"b": 2, "a": 1}),
        (ZstdCodec(), b"a" * 500, "a" * 500),
    ],
    ids=range(4),
)
def test_compare_exchange_accepts_the_expected_value_in_any_encoded_form(
    client: Client, table: Table, hash_key: bytes, codec: Any, stored: bytes, expected: Any
) -> None:
    table.set(hash_key, "s", stored)
    assert client.table(table.name, codec=codec).compare_exchange(hash_key, "s", expected, "new")
