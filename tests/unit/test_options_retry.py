"""Test options and their URL, retry policies, and the reaction to each error."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pegasus_green.auth import Kerberos
from pegasus_green.client import Client
from pegasus_green.codecs import named_codec
from pegasus_green.errors import InvalidArgument
from pegasus_green.options import (
    _URL_PARTS,
    DEFAULT_META_PORT,
    ClientOptions,
    HedgePolicy,
    OptionChanges,
    parse_url,
)
from pegasus_green.retry import REACTIONS, Reaction, RetryPolicy, reaction

NAMES = [field.name for field in dataclasses.fields(ClientOptions)]


# -------------------------------------------------------------------------------------------------------------- options
def test_defaults() -> None:
    options = ClientOptions()
    assert (options.timeout, options.connect_timeout, options.meta_stagger) == (2.0, 1.0, 0.25)
    assert (options.refresh_interval, options.refresh_period) == (0.3, 30.0)
    assert (options.silence, options.silent_window) == (0.5, 10.0)
    assert (options.max_in_flight, options.max_queued_bytes, options.max_frame) == (20_000, 64 << 20, 64 << 20)
    assert (options.max_write_bytes, options.header_version, options.hedge) == (1_048_576, 1, None)
    assert options.retry == RetryPolicy() == RetryPolicy(0.01, 0.5, None, 5.0)
    assert DEFAULT_META_PORT == 34601


def test_options_are_frozen_and_shared_freely() -> None:
    options = ClientOptions()
    for value in (options, HedgePolicy(), RetryPolicy()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.anything = 1  # type: ignore[union-attr]
        assert pickle.loads(pickle.dumps(value)) == value
        assert hash(value) == hash(pickle.loads(pickle.dumps(value)))


def test_changes_make_a_copy() -> None:
    options = ClientOptions()
    other = options.with_(timeout=5, retry=None, max_write_bytes=None)
    assert (other.timeout, other.retry, other.max_write_bytes) == (5, None, None)
    assert options == ClientOptions()
    assert options.with_() == options


def test_a_timeout_is_a_day_at_most() -> None:
    for seconds in (86400.5, 2147484, 1e300):
        assert ClientOptions(timeout=seconds).timeout == 86400.0
    assert ClientOptions(timeout=86399).timeout == 86399


SECONDS = ["timeout", "connect_timeout", "meta_stagger", "refresh_interval", "silence", "silent_window"]
SIZES = ["max_in_flight", "max_queued_bytes", "max_frame", "max_write_bytes"]
NO_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, "2", b"2", [], True, 1j]


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, -1, -0.0, None, pytest.param(10**400, id="huge"), *NO_NUMBERS])
def test_seconds_are_finite_and_above_0(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{name} must be a finite number of seconds above 0, not"):
        ClientOptions(**{name: value})


@pytest.mark.parametrize("value", [-1, None, *NO_NUMBERS])
def test_the_refresh_period_may_be_0(value: Any) -> None:
    assert ClientOptions(refresh_period=0).refresh_period == 0
    with pytest.raises(InvalidArgument, match=r"^refresh_period must be 0"):
        ClientOptions(refresh_period=value)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1, 1.0, *NO_NUMBERS])
def test_sizes_are_whole_and_above_0(name: str, value: Any) -> None:
    assert getattr(ClientOptions().with_(**{name: 1}), name) == 1  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=rf"^{name} must be a whole number above 0, not"):
        ClientOptions(**{name: value})


@pytest.mark.parametrize("name", ["max_in_flight", "max_frame"])
def test_sizes_that_the_protocol_limits(name: str) -> None:
    assert getattr(ClientOptions(**{name: 2**31 - 1}), name) == 2**31 - 1  # type: ignore[arg-type]
    for value in (2**31, 10**20):
        with pytest.raises(InvalidArgument, match=rf"^{name} must be at most 2147483647, not {value}"):
            ClientOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_in_flight", "max_queued_bytes", "max_frame"])
def test_only_the_write_limit_can_be_turned_off(name: str) -> None:
    assert ClientOptions(max_write_bytes=None).max_write_bytes is None
    with pytest.raises(InvalidArgument, match=name):
        ClientOptions(**{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2, -1, None, 1.0, True, "1"])
def test_header_versions(value: Any) -> None:
    assert [ClientOptions(header_version=version).header_version for version in (0, 1)] == [0, 1]
    with pytest.raises(InvalidArgument, match=r"^header_version must be 0 or 1, not"):
        ClientOptions(header_version=value)


def test_hedging_needs_header_v1() -> None:
    assert ClientOptions(hedge=HedgePolicy()).hedge == HedgePolicy(0.02, 0.1)
    with pytest.raises(InvalidArgument, match="hedge needs header_version=1"):
        ClientOptions(hedge=HedgePolicy(), header_version=0)


@pytest.mark.parametrize(("name", "value"), [("retry", 3), ("retry", True), ("hedge", 0.02), ("retry", HedgePolicy())])
def test_policy_options_must_be_policies(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{name} must be a (Retry|Hedge)Policy or None \(off\), not"):
        ClientOptions(**{name: value})


@pytest.mark.parametrize(
    "values",
    [{"delay": 0}, {"delay": -1}, {"max_ratio": 0}, {"max_ratio": 1.1}, *({"delay": bad} for bad in NO_NUMBERS)],
)
def test_invalid_hedge_policies_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidArgument, match=r"a hedge needs delay > 0 seconds and 0 < max_ratio <= 1, not .*HedgePolicy"
    ):
        HedgePolicy(**values)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("time_out", "timeout"), ("max_inflight", "max_in_flight"), ("hedging", "hedge"), ("retries", "retry")],
)
def test_an_unknown_option_error_suggests_the_nearest_name(wrong: str, near: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^unknown option '{wrong}'; did you mean '{near}'\?$"):
        ClientOptions().with_(**{wrong: 1})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=rf"^unknown option '{wrong}'; did you mean '{near}'\?$"):
        parse_url(f"pegasus://h:1/t?{wrong}=on")


def test_an_unknown_option_without_a_similar_name() -> None:
    with pytest.raises(InvalidArgument, match=r"^unknown option 'xyz'$"):
        ClientOptions().with_(xyz=1)  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------------------------------ URL
@pytest.mark.parametrize(
    ("url", "metas", "table", "options"),
    [
        ("pegasus://h:1", ["h:1"], "", {}),
        ("pegasus://h", ["h"], "", {}),
        ("pegasus://h:1/", ["h:1"], "", {}),
        ("pegasus://h:1/temp", ["h:1"], "temp", {}),
        ("pegasus://h:1/temp/", ["h:1"], "temp", {}),
        ("pegasus://h:1,g:2,f/temp", ["h:1", "g:2", "f"], "temp", {}),
        ("pegasus://h:1, g:2,,/temp", ["h:1", "g:2"], "temp", {}),
        ("pegasus://[::1]:34601,[fe80::2]/temp", ["[::1]:34601", "[fe80::2]"], "temp", {}),
        ("pegasus://h:1/temp?timeout=2", ["h:1"], "temp", {"timeout": 2.0}),
        ("pegasus://h:1/temp?timeout=.5&max_frame=4096", ["h:1"], "temp", {"timeout": 0.5, "max_frame": 4096}),
        ("pegasus://h:1?timeout=2", ["h:1"], "", {"timeout": 2.0}),
        ("pegasus://h:1/?timeout=2", ["h:1"], "", {"timeout": 2.0}),
        ("pegasus://h:1/temp?", ["h:1"], "temp", {}),
        ("pegasus://h:1/t?retry=off", ["h:1"], "t", {"retry": None}),
        ("pegasus://h:1/t?retry=none", ["h:1"], "t", {"retry": None}),
        ("pegasus://h:1/t?retry=ON", ["h:1"], "t", {"retry": RetryPolicy()}),
        ("pegasus://h:1/t?hedge=0.05", ["h:1"], "t", {"hedge": HedgePolicy(delay=0.05)}),
        ("pegasus://h:1/t?hedge=off", ["h:1"], "t", {"hedge": None}),
        ("pegasus://h:1/t?max_write_bytes=none", ["h:1"], "t", {"max_write_bytes": None}),
        ("pegasus://h:1/t?max_write_bytes=10", ["h:1"], "t", {"max_write_bytes": 10}),
        ("pegasus://h:1/t?header_version=0", ["h:1"], "t", {"header_version": 0}),
        ("pegasus://h:1/%E9%94%AE%20%2F%23%3F", ["h:1"], "\u952e /#?", {}),
        ("pegasus://h:1/a+b", ["h:1"], "a+b", {}),
        ("Pegasus://h:1/t", ["h:1"], "t", {}),
        ("pegasus://h:1/a.b_c-d:e@f", ["h:1"], "a.b_c-d:e@f", {}),
    ],
)
def test_urls(url: str, metas: list[str], table: str, options: dict[str, Any]) -> None:
    assert parse_url(url) == (metas, table, ClientOptions().with_(**options), "")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_table_name_can_be_written(name: str) -> None:
    parsed = parse_url(f"pegasus://h:1/{quote(name, safe='')}?timeout=1")
    assert parsed == (["h:1"], name, ClientOptions(timeout=1.0), "")


@pytest.mark.parametrize("name", NAMES)
def test_every_option_can_be_written(name: str) -> None:
    special = {"retry": "off", "hedge": "0.5", "header_version": "1", "auth_required": "false"}
    text = special.get(name, "kerberos&service_fqdn=h" if name == "auth" else "7")
    changed = getattr(parse_url(f"pegasus://h/t?{name}={text}").options, name)
    values = {"retry": None, "hedge": HedgePolicy(0.5), "header_version": 1, "auth_required": False}
    assert changed == values.get(name, Kerberos(service_fqdn="h") if name == "auth" else 7)
    assert type(changed) is (int if name in [*SIZES, "header_version"] else type(changed))


POLICY_FIELDS = {
    "max_attempts=3": RetryPolicy(max_attempts=3),
    "max_attempts=none": RetryPolicy(),
    "retry_base=0.02": RetryPolicy(base=0.02),
    "retry_cap=1": RetryPolicy(cap=1.0),
    "retry_busy_factor=2": RetryPolicy(busy_factor=2.0),
    "retry=on&max_attempts=2&retry_cap=3": RetryPolicy(max_attempts=2, cap=3.0),
    "hedge=0.05&hedge_max_ratio=0.5": HedgePolicy(0.05, 0.5),
    "hedge_max_ratio=0.5&hedge=0.05": HedgePolicy(0.05, 0.5),
}


@pytest.mark.parametrize("query", POLICY_FIELDS)
def test_every_field_of_a_policy_can_be_written(query: str) -> None:
    options = parse_url(f"pegasus://h/t?{query}").options
    assert POLICY_FIELDS[query] in (options.retry, options.hedge)


def test_every_field_of_a_policy_has_a_name() -> None:
    named = {(option, field) for option, field, _ in _URL_PARTS.values()}
    fields = {("retry", field.name) for field in dataclasses.fields(RetryPolicy)}
    fields |= {("hedge", field.name) for field in dataclasses.fields(HedgePolicy)}
    # hedge=SECONDS is the delay.
    assert named == fields - {("hedge", "delay")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "None"),
        ("json", "JsonCodec(sort_keys=False)"),
        ("utf8", "Utf8Codec()"),
        ("zstd", "ZstdCodec(None,"),
        ("zstd+json", "ZstdCodec(JsonCodec("),
        ("zstd+utf8", "ZstdCodec(Utf8Codec("),
    ],
)
def test_codecs_of_urls(name: str, kind: str) -> None:
    assert repr(named_codec(parse_url(f"pegasus://h/t?codec={name}").codec)).startswith(kind)
    assert parse_url(f"pegasus://h/t?codec={name.replace('+', '%2B')}").codec == name


@pytest.mark.parametrize("name", ["xml", "zstd+", "zstd+xml", "json+zstd", "JSON"])
def test_unknown_codecs_in_urls_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="must be json, utf8, zstd"):
        named_codec(name)


def test_type_checkers_know_every_option() -> None:
    assert list(OptionChanges.__annotations__) == NAMES


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "a URL must have the form pegasus://"),
        ("h:1/temp", "a URL must have the form pegasus://"),
        ("http://h:1/temp", "^http:// is not a Pegasus address: a URL has the form .* not 'http://h:1/temp'"),
        ("pegasus://ada:secret@h:1/temp", "^a pegasus:// URL cannot have a user name or password(?!.*secret)"),
        ("redis://:secret@h:1/0", r"^redis:// is not(?!.*secret).* not 'redis://\.\.\.@h:1/0'"),
        ("ada:secret@h:1/temp", r"^a URL must have the form(?!.*secret)"),
        ("pegasus://ada:se/cret@h:1/temp", "^a pegasus:// URL cannot have a user name or password(?!.*cret)"),
        ("pegasus://h:1/a/b@c", r"^a URL can name only one table, not 'pegasus://\.\.\.@c'"),
        ("pegasus://ada@h:1", "^a pegasus:// URL cannot have a user name"),
        ("pegasus://h:1/t?codec=xml&codec=json", "option codec appears twice"),
        ("pegasus://h:1/t?max_attempts=0", "retry max_attempts must be None or a whole number above 0"),
        (
            "pegasus://h:1/t?max_attempts=many",
            "option max_attempts in the URL must be a whole number or none",
        ),
        ("pegasus://h:1/t?retry=off&max_attempts=3", "retry is off, so the URL cannot set its max_attempts"),
        ("pegasus://h:1/t?hedge_max_ratio=0.5", "hedge is off, so the URL cannot set its max_ratio"),
        ("pegasus://h:1/t?max_attempt=3", "unknown option 'max_attempt'; did you mean 'max_attempts'"),
        ("pegasus:/h:1/temp", "a URL must have the form"),
        ("pegasus://", "a URL must have the form"),
        ("pegasus:///temp", "no meta server in 'pegasus:///temp'"),
        ("pegasus://,/temp", "no meta server"),
        ("pegasus://?timeout=2", "no meta server"),
        ("pegasus://h:1/a/b", "a URL can name only one table, not 'pegasus://h:1/a/b'.*%2F"),
        ("pegasus://h:1//t", "a URL can name only one table"),
        ("pegasus://h:1/a#b", "cannot have a #fragment.*%23"),
        ("pegasus://h:1/a%zz", "'%zz' in .* is not a percent-encoding; write % as %25"),
        ("pegasus://h:1/a%2", "'%2' in .* is not a percent-encoding"),
        ("pegasus://h:1/t?auth_required=yes", "option auth_required in the URL must be true or false, not 'yes'"),
        ("pegasus://h:1/%ff", "the table name in .* is not UTF-8"),
        ("pegasus://h:1/t?timeout=fast", "option timeout in the URL must be a number, not 'fast'"),
        ("pegasus://h:1/t?timeout=", "option timeout in the URL must be a number, not ''"),
        ("pegasus://h:1/t?timeout", "option timeout in the URL must be a number, not ''"),
        ("pegasus://h:1/t?max_frame=1.5", "option max_frame in the URL must be a whole number, not '1.5'"),
        ("pegasus://h:1/t?retry=maybe", "option retry in the URL must be on or off, not 'maybe'"),
        ("pegasus://h:1/t?hedge=soon", "option hedge in the URL must be a number of seconds or off, not 'soon'"),
        ("pegasus://h:1/t?hedge=-1", "a hedge needs delay > 0 seconds"),
        ("pegasus://h:1/t?timeout=1&timeout=2", "option timeout appears twice in the URL"),
        ("pegasus://h:1/t?timeuot=1", "unknown option 'timeuot'; did you mean 'timeout'"),
    ],
)
def test_invalid_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_url(url)


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_an_invalid_argument(text: str) -> None:
    for url in (text, f"pegasus://{text}", f"pegasus://h/{text}", f"pegasus://h/t?{text}"):
        try:
            metas, table, options, codec = parse_url(url)
        except InvalidArgument:
            continue
        assert metas
        assert isinstance(table, str)
        assert isinstance(options, ClientOptions)
        assert isinstance(codec, str)


# ---------------------------------------------------------------------------------------------------------------- retry
@given(
    st.floats(0.0001, 10),
    st.floats(1, 100),
    st.floats(1, 10),
    st.integers(1, 10_000),
    st.booleans(),
)
def test_pauses_stay_between_half_and_all_of_the_step(
    base: float, growth: float, factor: float, attempt: int, slow: bool
) -> None:
    policy = RetryPolicy(base=base, cap=base * growth, busy_factor=factor)
    step = min(base * 2.0 ** min(attempt - 1, 60) * (factor if slow else 1), policy.cap)
    for _ in range(5):
        pause = policy.delay(attempt, slow)
        assert step / 2 * 0.999 <= pause <= step * 1.001
        assert 0 < pause <= policy.cap


def test_pauses_grow_to_the_cap_and_differ() -> None:
    policy = RetryPolicy()
    upper = [max(policy.delay(attempt) for _ in range(300)) for attempt in range(1, 12)]
    for attempt, longest in enumerate(upper, 1):
        assert longest == pytest.approx(min(0.01 * 2 ** (attempt - 1), 0.5), rel=0.05)
    assert len({policy.delay(3) for _ in range(50)}) > 40, "jitter"
    assert min(policy.delay(1, True) for _ in range(100)) >= 0.025


def test_policies_hold_no_state() -> None:
    policy = RetryPolicy()
    before = pickle.dumps(policy)
    for attempt in range(1, 100):
        policy.delay(attempt)
    assert pickle.dumps(policy) == before


@pytest.mark.parametrize("name", ["base", "cap", "busy_factor"])
@pytest.mark.parametrize("value", [None, *NO_NUMBERS])
def test_policies_need_numbers(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=rf"^retry {name} must be a finite number, not"):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"base": 0}, r"0 < base <= cap seconds, not base=0, cap=0\.5"),
        ({"base": -1}, "0 < base <= cap"),
        ({"base": 1.0}, "0 < base <= cap"),
        ({"busy_factor": 0.5}, "busy_factor must be at least 1, not 0.5"),
        ({"max_attempts": 0}, "max_attempts must be None or a whole number above 0, not 0"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"max_attempts": "3"}, "max_attempts"),
    ],
)
def test_invalid_policies_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        RetryPolicy(**values)


# ----------------------------------------------------------------------------------------------- what an error asks for
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ERR_OBJECT_NOT_FOUND", Reaction(retry=True, refresh=True)),
        ("ERR_INVALID_STATE", Reaction(retry=True, refresh=True)),
        ("ERR_INACTIVE_STATE", Reaction(retry=True, refresh=True)),
        ("ERR_PARENT_PARTITION_MISUSED", Reaction(retry=True, refresh=True)),
        ("ERR_TRY_AGAIN", Reaction(retry=True, refresh=True)),
        ("ERR_NOT_ENOUGH_MEMBER", Reaction(retry=True)),
        ("ERR_CAPACITY_EXCEEDED", Reaction(retry=True)),
        ("ERR_BUSY", Reaction(retry=True, slow=True)),
        ("ERR_SPLITTING", Reaction(retry=True, slow=True)),
        ("ERR_DISK_INSUFFICIENT", Reaction(retry=False)),
        ("ERR_DISK_IO_ERROR", Reaction(retry=False)),
        ("ERR_OPERATION_DISABLED", Reaction(retry=False)),
        ("ERR_INVALID_DATA", Reaction(retry=False)),
        ("ERR_ACL_DENY", Reaction(retry=False)),
        ("ERR_UNAUTHENTICATED", Reaction(retry=False)),
        ("ERR_HANDLER_NOT_FOUND", Reaction(retry=False)),
        ("ERR_INVALID_PARAMETERS", Reaction(retry=False)),
        ("ERR_OK", Reaction(retry=False)),
        ("ERR_FROM_A_LATER_RELEASE", Reaction(retry=False)),
    ],
)
def test_reactions(code: str, expected: Reaction) -> None:
    assert reaction(code) == expected
    assert (code in REACTIONS) == expected.retry


# ------------------------------------------------------------------------------------------------- addresses and tables
@pytest.mark.parametrize("port", ["²", "٣", "", "0", "65536", "-1", "1" * 5000])
def test_invalid_ports_are_refused(port: str) -> None:
    with pytest.raises(InvalidArgument, match="port from 1 to 65535"):
        Client(f"host:{port}")


def test_a_table_name_is_utf8() -> None:
    with Client("host") as client, pytest.raises(InvalidArgument, match=r"table name is not UTF-8: b'\\xff'"):
        client.table(b"\xff")
