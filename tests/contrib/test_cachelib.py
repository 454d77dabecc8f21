"""Test the cachelib cache, alone and in a Flask application with Flask-Session and Flask-Caching."""

from __future__ import annotations

import pickle
from datetime import timedelta

import gevent
import pytest
from flask import Flask, session
from flask_caching import Cache
from flask_session import Session

from pegasus_green import NotAnInteger, RequestTimeout, shared_client
from pegasus_green.contrib.cachelib import PegasusCache
from pegasus_green.onebox import OneboxProcess
from pegasus_green.shared import shared_table

NOBODY = "pegasus://127.0.0.1:1/temp?timeout=0.2"


def test_records_have_the_documented_layout(url: str) -> None:
    cache = PegasusCache(url, key_prefix="app:")
    table = shared_table(url)
    cache.set("Zoë", 41)
    cache.set("list", [1, 2], timeout=0)
    cache.set("span", "x", timeout=timedelta(minutes=2))
    assert table.get("app:Zoë".encode(), b"") == b"41"
    raw = table.get("app:list", b"", default=b"")
    assert raw[:1] == b"!"
    assert pickle.loads(raw[1:]) == [1, 2]
    assert table.ttl("app:list", b"") == float("inf")
    assert table.ttl("app:Zoë", b"") in range(280, 301)
    assert table.ttl("app:span", b"") in range(100, 121)


def test_a_prefix_may_be_a_function(url: str) -> None:
    PegasusCache(url, key_prefix=lambda: "tenant:").set("a", 1)
    assert shared_table(url).get("tenant:a", b"") == b"1"


def test_a_negative_timeout_stores_nothing(url: str) -> None:
    cache = PegasusCache(url)
    cache.set("a", 1)
    assert cache.set("a", 2, timeout=-1)
    assert cache.get("a") is None
    assert cache.add("a", 3, timeout=-1)
    assert cache.get("a") is None


def test_clear_keeps_keys_with_another_prefix(url: str) -> None:
    mine, other = PegasusCache(url, key_prefix="a:"), PegasusCache(url, key_prefix="b:")
    mine.set("x", 1)
    other.set("x", 2)
    assert mine.clear()
    assert (mine.get("x"), other.get("x")) == (None, 2)


def test_concurrent_inc_calls_are_all_counted(url: str) -> None:
    cache = PegasusCache(url)
    jobs = [gevent.spawn(cache.inc, "n") for _ in range(100)]
    assert {job.get() for job in gevent.joinall(jobs)} == set(range(1, 101))
    cache.set("text", "1")
    with pytest.raises(NotAnInteger):
        cache.inc("text")


def test_a_lost_reply_raises_and_the_write_is_not_repeated(pegasus_onebox: OneboxProcess, url: str) -> None:
    impatient = PegasusCache(f"{url}?timeout=0.5")
    for rpc, call in (("incr", lambda: impatient.inc("n")), ("check_and_set", lambda: impatient.add("m", 1))):
        fault = pegasus_onebox.fault("drop", rpc=rpc, table=url.rpartition("/")[2])
        with pytest.raises(RequestTimeout) as caught:
            call()
        assert caught.value.outcome_unknown
        fault.remove()
    assert PegasusCache(url).get_many("n", "m") == [1, 1]
    shared_client(f"{url}?timeout=0.5").close()


def test_with_ignore_errors_a_dead_cluster_looks_like_an_empty_cache(caplog: pytest.LogCaptureFixture) -> None:
    cache = PegasusCache(NOBODY, ignore_errors=True)
    assert cache.get("a") is cache.inc("a") is None
    assert cache.get_many("a", "b") == [None, None]
    assert not any((cache.set("a", 1), cache.add("a", 1), cache.delete("a"), cache.has("a"), cache.clear()))
    assert cache.set_many({"a": 1, "b": 2}) == cache.delete_many("a", "b") == []
    assert len(caplog.records) >= 8
    shared_client(NOBODY).close()


def test_without_ignore_errors_a_dead_cluster_raises() -> None:
    cache = PegasusCache(NOBODY, ignore_delete_many_errors=False)
    for call in (cache.get, cache.delete, cache.has, cache.inc, cache.get_many, cache.delete_many):
        with pytest.raises(TimeoutError):
            call("a")
    with pytest.raises(TimeoutError):
        cache.set("a", 1)
    shared_client(NOBODY).close()


def test_a_flask_application_with_sessions_and_caching(url: str) -> None:
    app = Flask(__name__)
    app.config.update(
        SESSION_TYPE="cachelib",
        SESSION_CACHELIB=PegasusCache(url, key_prefix="session:"),
        CACHE_TYPE="pegasus_green.contrib.cachelib.flask_cache",
        CACHE_OPTIONS={"url": url, "key_prefix": "page:"},
    )
    Session(app)
    pages = Cache(app)
    calls = []

    @app.route("/visits")
    def visits() -> str:
        session["n"] = session.get("n", 0) + 1
        return str(session["n"])

    @app.route("/slow")
    @pages.cached(timeout=60)
    def slow() -> str:
        calls.append(1)
        return "slow"

    one, other = app.test_client(), app.test_client()
    assert [one.get("/visits").text for _ in range(3)] == ["1", "2", "3"]
    assert other.get("/visits").text == "1"
    assert [one.get("/slow").text, other.get("/slow").text] == ["slow", "slow"]
    assert calls == [1]
    keys = {row[0].split(b":")[0] for row in shared_table(url).scan(no_value=True)}
    assert keys == {b"session", b"page"}
    pages.clear()
    one.get("/slow")
    assert calls == [1, 1]
    assert one.get("/visits").text == "4", "the sessions have another prefix"
