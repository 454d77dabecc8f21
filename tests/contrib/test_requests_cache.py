"""The requests-cache backend: layout, expiry in the servers, large responses; its own suites run elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import requests_mock
from requests_cache import CachedSession

from pegasus_green import InvalidArgument
from pegasus_green.contrib.requests_cache import PegasusCache, PegasusDict
from pegasus_green.shared import shared_table

PAGE = "http://site.example/page"


@pytest.fixture
def site() -> Iterator[requests_mock.Mocker]:
    with requests_mock.Mocker() as mocker:
        mocker.get(PAGE, text="hello")
        mocker.get(f"{PAGE}/old", status_code=301, headers={"Location": PAGE})
        yield mocker


def session(url: str, **options: object) -> CachedSession:
    return CachedSession(backend=PegasusCache(url, "crawler", **options), expire_after=60)  # type: ignore[arg-type]


def test_records_have_the_documented_layout(url: str, site: requests_mock.Mocker) -> None:
    with session(url) as crawler:
        assert crawler.get(PAGE).from_cache is False
        assert crawler.get(PAGE).from_cache is True
        (key,) = crawler.cache.responses
        crawler.get(f"{PAGE}/old")
    table = shared_table(url)
    raw = table.get(f"crawler:responses:{key}", b"")
    assert json.loads(raw or b"")["url"] == PAGE
    assert table.ttl(f"crawler:responses:{key}", b"") in range(3640, 3661)
    assert [row[0][:18] for row in table.scan(no_value=True) if b"redirects" in row[0]] == [b"crawler:redirects:"]


def test_a_response_without_a_ttl_does_not_expire(url: str, site: requests_mock.Mocker) -> None:
    with session(url, ttl=False) as crawler:
        crawler.get(PAGE)
        (key,) = crawler.cache.responses
    assert shared_table(url).ttl(f"crawler:responses:{key}", b"") == float("inf")


def test_a_response_that_expired_long_ago_does_not_stay_for_ever(url: str) -> None:
    class Old(str):
        __slots__ = ()
        expires_delta = -7200

    responses = PegasusDict(url, "a", serializer=None)
    responses["x"] = Old("hello")
    assert shared_table(url).ttl("a:responses:x", b"") in (None, 0, 1)


def test_clear_keeps_another_namespace(url: str) -> None:
    mine, other = PegasusDict(url, "a"), PegasusDict(url, "b")
    mine["x"], other["x"] = "1", "2"
    mine.clear()
    assert (len(mine), dict(other)) == (0, {"x": "2"})
    assert (len(other.keys()), list(other.items()), list(other.values())) == (1, [("x", "2")], ["2"])


def test_a_response_above_the_size_limit_is_delivered_and_not_cached(
    url: str, site: requests_mock.Mocker, caplog: pytest.LogCaptureFixture
) -> None:
    site.get(f"{PAGE}/large", text="x" * 2_000_000)
    with session(url) as crawler:
        assert len(crawler.get(f"{PAGE}/large").text) == 2_000_000
        assert crawler.get(f"{PAGE}/large").from_cache is False
    assert "a response is not cached" in caplog.text


def test_a_url_without_a_table_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="must name a table"):
        PegasusCache("pegasus://127.0.0.1:34601")
