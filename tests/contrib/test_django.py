"""Test the Django backend: layout, atomicity, prefixes, errors, one client for each process."""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import pytest
from django.core.cache.backends.base import InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured

from pegasus_green import InvalidArgument, RequestTimeout, shared_client
from pegasus_green.contrib.django import PegasusCache
from pegasus_green.onebox import OneboxProcess
from pegasus_green.shared import shared_table
from tests.contrib.conftest import url_of

# An unused port, and a short timeout.
NOBODY = "pegasus://127.0.0.1:1/temp?timeout=0.2"


@pytest.fixture
def cache(url: str) -> PegasusCache:
    return PegasusCache(url, {})


def test_records_have_the_documented_layout(url: str) -> None:
    cache = PegasusCache(url, {"KEY_PREFIX": "shop", "VERSION": 3})
    table = shared_table(url)
    cache.set("Zoë", 41)
    cache.set("list", [1, 2], timeout=None)
    cache.set("true", True)
    assert table.get("shop:3:Zoë".encode(), b"") == b"41"
    assert pickle.loads(table.get("shop:3:list", b"", default=b"")) == [1, 2]
    assert pickle.loads(table.get("shop:3:true", b"", default=b"")) is True
    assert table.ttl("shop:3:Zoë", b"") in range(280, 301)
    assert table.ttl("shop:3:list", b"") == float("inf")


def test_a_timeout_above_the_protocol_limit_is_reduced(cache: PegasusCache) -> None:
    cache.set("a", 1, timeout=10**10)
    assert cache.get("a") == 1


def test_clear_removes_its_own_prefix_in_all_versions(url: str) -> None:
    mine, other = PegasusCache(url, {"KEY_PREFIX": "a"}), PegasusCache(url, {"KEY_PREFIX": "b"})
    table = shared_table(url)
    table.set("a:1:x", "not of the cache", "kept")
    for cache in (mine, other):
        cache.set("x", "1")
        cache.set("x", "2", version=2)
    mine.clear()
    assert mine.get("x") is mine.get("x", version=2) is None
    assert (other.get("x"), other.get("x", version=2)) == ("1", "2")
    assert table.get("a:1:x", "not of the cache") == b"kept"


def test_clear_is_refused_with_a_key_function_that_hides_the_prefix(url: str) -> None:
    cache = PegasusCache(url, {"KEY_FUNCTION": lambda key, *_: key})
    with pytest.raises(NotImplementedError, match="KEY_FUNCTION"):
        cache.clear()
    own = PegasusCache(url, {"KEY_FUNCTION": lambda key, _, version: f"mine-{version}-{key}"})
    own.set("x", 1)
    own.clear()
    assert own.get("x") is None


def test_concurrent_incr_calls_are_all_counted(cache: PegasusCache) -> None:
    cache.set("n", 0)
    jobs = [gevent.spawn(cache.incr, "n") for _ in range(100)]
    assert sorted(job.get() for job in gevent.joinall(jobs)) == list(range(1, 101))
    assert cache.decr("n", 100) == 0


def test_incr_keeps_the_timeout_and_refuses_an_absent_key(cache: PegasusCache, url: str) -> None:
    cache.set("n", 1, timeout=100)
    assert cache.incr("n") == 2
    assert shared_table(url).ttl(":1:n", b"") in range(80, 101)
    with pytest.raises(ValueError, match="not found"):
        cache.incr("absent")
    assert cache.get("absent") is None
    cache.set("text", "1")
    with pytest.raises(TypeError, match="not a 64-bit integer"):
        cache.incr("text")


class Disturbed:
    """A table in which something happens right before one of the requests."""

    def __init__(self, table: Any, number: int, happen: Callable[[], object]) -> None:
        self._table, self._left, self._happen = table, number, happen
        self.client = table.client

    def __getattr__(self, name: str) -> Any:
        def request(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == -1:
                self._happen()
            return getattr(self._table, name)(*arguments, **options)

        return request

    @property
    def happened(self) -> bool:
        return self._left < 0


@pytest.mark.parametrize(("value", "delta"), [(5, 1), (0, 1), (7, -3)])
def test_a_key_that_expires_right_before_its_addition_expires_again(
    own_onebox: OneboxProcess, value: int, delta: int
) -> None:
    cache = PegasusCache(url_of(own_onebox), {})
    table = cache._table
    cache.set("n", value, timeout=1)
    cache._table = disturbed = Disturbed(table, 1, lambda: own_onebox.advance(5))  # type: ignore[assignment]
    with pytest.raises(ValueError, match="not found"):
        cache.incr("n", delta)
    assert disturbed.happened
    # The clock of the servers is ahead by 5 s now, so the new key has already expired for them.
    assert table.ttl(":1:n", b"") is None


@pytest.mark.parametrize("ahead", [-2, 2])
def test_incr_never_moves_the_expiry(cache: PegasusCache, monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    """The clock of this machine does not matter. A number that is often incremented expires, and not too early."""
    cache.set("n", 1, timeout=3)
    monkeypatch.setattr("pegasus_green.operations.base.time", lambda: time.time() + ahead)
    before = time.monotonic()
    for total in range(2, 6):
        assert cache.incr("n") == total
    left = cache._table.ttl(":1:n", b"")
    assert left is not None
    assert 1 - (time.monotonic() - before) <= left <= 3


def test_incr_of_a_key_that_expires_soon(cache: PegasusCache) -> None:
    cache.set("n", 7, timeout=3)
    assert (cache.incr("n"), cache.decr("n", 10)) == (8, -2)
    assert cache._table.ttl(":1:n", b"") in (1, 2, 3)
    cache.set("n", 2**63 - 1, timeout=3)
    with pytest.raises(OverflowError):
        cache.incr("n")
    with pytest.raises(InvalidArgument, match="64-bit integer"):
        cache.incr("n", 1.5)  # type: ignore[arg-type]
    cache.set("n", "text", timeout=3)
    with pytest.raises(TypeError, match="not a 64-bit integer"):
        cache.incr("n")


@pytest.mark.parametrize("timeout", [3, 60, None])
@pytest.mark.parametrize("stored", [1000, 5, 0, "text"])
def test_incr_keeps_what_another_caller_stores_meanwhile(url: str, timeout: int | None, stored: Any) -> None:
    """The other caller stores the value before the first request of ``incr``, then before the second one, and so on."""
    cache, other = PegasusCache(url, {}), PegasusCache(url, {})
    table, number, happened = cache._table, 0, True
    while happened:
        other.set("n", 5, timeout=timeout)
        disturbed = Disturbed(table, number, lambda: other.set("n", stored, timeout=None))
        cache._table = disturbed  # type: ignore[assignment]
        sums = []
        with suppress(TypeError):
            sums = [cache.incr("n")]
        happened, number = disturbed.happened, number + 1
        if happened:
            expected = [stored, stored + 1] if isinstance(stored, int) else [stored]
            assert other.get("n") in expected, f"before request {number}"
            assert not sums or sums[0] in (6, *expected)
            # A 0 looks like a key that was deleted. It gets the former timeout.
            if stored != 0 or timeout is None:
                assert table.ttl(":1:n", b"") == math.inf, f"before request {number}"
    assert number > 2


def test_incr_of_a_key_that_is_deleted_meanwhile_keeps_its_timeout(url: str) -> None:
    cache, other = PegasusCache(url, {}), PegasusCache(url, {})
    other.set("n", 5, timeout=60)
    cache._table = Disturbed(cache._table, 1, lambda: other.delete("n"))  # type: ignore[assignment]
    assert cache.incr("n", 2) == 2
    assert (other.get("n"), (other._table.ttl(":1:n", b"") or 0.0) <= 60) == (2, True)


def test_touch_and_delete_say_whether_there_was_a_key(cache: PegasusCache) -> None:
    cache.set("a", 1)
    assert cache.touch("a", 50) is True
    assert cache.touch("absent", 50) is False
    assert cache.touch("a", 0) is True
    assert cache.delete("a") is False


def test_one_of_many_concurrent_add_calls_succeeds(cache: PegasusCache) -> None:
    jobs = [gevent.spawn(cache.add, "lock", n) for n in range(50)]
    assert [job.get() for job in gevent.joinall(jobs)].count(True) == 1


def test_a_lost_reply_raises_and_the_write_is_not_repeated(
    pegasus_onebox: OneboxProcess, cache: PegasusCache, url: str
) -> None:
    impatient = PegasusCache(f"{url}?timeout=0.5", {})
    cache.set("n", 1)
    table = url.rpartition("/")[2]
    for operation, call in (("incr", lambda: impatient.incr("n")), ("check_and_set", lambda: impatient.add("m", 1))):
        fault = pegasus_onebox.fault("drop", rpc=operation, table=table)
        with pytest.raises(RequestTimeout) as caught:
            call()
        assert caught.value.outcome_unknown
        fault.remove()
    assert (cache.get("n"), cache.get("m")) == (2, 1)
    shared_client(f"{url}?timeout=0.5").close()


@pytest.mark.filterwarnings("ignore:Cache key will cause errors")
def test_with_ignore_exceptions_a_dead_cluster_looks_like_an_empty_cache(caplog: pytest.LogCaptureFixture) -> None:
    cache = PegasusCache(NOBODY, {"OPTIONS": {"IGNORE_EXCEPTIONS": True}})
    with caplog.at_level(logging.WARNING, "pegasus_green.contrib.django"):
        assert cache.get("a", "default") == "default"
        cache.set("a", 1)
        assert (
            cache.add("a", 1) is cache.touch("a") is cache.delete("a") is cache.has_key("a") is cache.clear() is False
        )
        assert cache.get_many(["a", "b"]) == {}
        assert cache.set_many({"a": 1, "b": 2}) == ["a", "b"]
        cache.delete_many(["a"])
        assert cache.get_or_set("a", 7) == 7
        with pytest.raises(ValueError, match="not found"):
            cache.incr("a")
    assert len(caplog.records) >= 10
    with pytest.raises(InvalidCacheKey, match="65534 bytes"):
        cache.get("x" * 70_000)
    shared_client(NOBODY).close()


def test_without_ignore_exceptions_a_dead_cluster_raises() -> None:
    cache = PegasusCache(NOBODY, {})
    for call in (cache.get, cache.delete, cache.incr, cache.touch):
        with pytest.raises(TimeoutError):
            call("a")
    for bulk in (lambda: cache.get_many(["a"]), lambda: cache.set_many({"a": 1}), lambda: cache.delete_many(["a"])):
        with pytest.raises(TimeoutError):
            bulk()
    shared_client(NOBODY).close()


def test_wrong_settings_raise_errors_that_name_them(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="LOCATION: the URL must name a table"):
        PegasusCache("pegasus://127.0.0.1:34601", {})
    with pytest.raises(ImproperlyConfigured, match="LOCATION: a URL"):
        PegasusCache(["a", "b"], {})
    with pytest.raises(ImproperlyConfigured, match="unknown OPTIONS ignore; known"):
        PegasusCache(url, {"OPTIONS": {"ignore": True}})


def test_the_serializer_can_be_replaced(url: str) -> None:
    class Words:
        def dumps(self, value: str) -> bytes:
            return value.encode()

        def loads(self, raw: bytes) -> str:
            return raw.decode()

    cache = PegasusCache(url, {"OPTIONS": {"serializer": Words}})
    cache.set("a", "b")
    assert shared_table(url).get(":1:a", b"") == b"b"
    assert cache.get("a") == "b"


def test_all_objects_of_a_process_share_one_client(url: str) -> None:
    """Django makes an object for each thread, and for each greenlet under monkey patching."""
    caches = [job.get() for job in gevent.joinall([gevent.spawn(PegasusCache, url, {}) for _ in range(50)])]
    gevent.joinall([gevent.spawn(cache.set, "a", 1) for cache in caches], raise_error=True)
    assert {id(cache._table.client) for cache in caches} == {id(shared_client(url))}
    assert len(shared_client(url).stats()["servers"]) <= 4
