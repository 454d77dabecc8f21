"""Test contrib.limits: the suite of limits, load, lost replies, and Flask-Limiter."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask
from flask_limiter import Limiter
from limits import parse
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES, FixedWindowRateLimiter

from pegasus_green import InvalidArgument, PegasusError
from pegasus_green.contrib import limits as contrib
from pegasus_green.shared import shared_table
from tests.contrib.suites import run_pytest, suite


def storage(url: str, **options: Any) -> contrib.PegasusStorage:
    made = storage_from_string(url, **options)
    assert isinstance(made, contrib.PegasusStorage)
    return made


def test_the_suite_of_the_limits_package_passes(url: str, tmp_path: Path) -> None:
    place = suite("limits") / "tests"
    for name in ("test_storage.py", "test_strategy.py", "utils.py"):
        # `tests` is our package here.
        text = (place / name).read_text().replace("from tests.utils import", "from suite_utils import")
        (tmp_path / name.replace("utils", "suite_utils")).write_text(text)
    # The fixtures of other databases; their cases are skipped.
    (tmp_path / "pytest_lazy_fixtures.py").write_text("def lf(name):\n    return name\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = ignore::pytest.PytestUnknownMarkWarning\n")
    shutil.copy(Path(__file__).with_name("limits_conftest.py"), tmp_path / "conftest.py")
    said = run_pytest("--import-mode=prepend", cwd=tmp_path, PEGASUS_URL=url, PYTHONPATH=str(tmp_path))
    found = re.search(r"(\d+) passed", said)
    assert found is not None
    assert int(found[1]) >= 50, said
    assert "failed" not in said


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_limit_of_10_admits_exactly_10_of_100_greenlets(url: str, strategy: str) -> None:
    # Two storages, like two processes: they share no state.
    limiters = [STRATEGIES[strategy](storage(url)) for _ in range(2)]
    item = parse("10/hour")
    workers = [gevent.spawn(limiters[number % 2].hit, item, "key") for number in range(100)]
    gevent.joinall(workers, raise_error=True)
    assert sum(bool(worker.value) for worker in workers) == 10
    assert limiters[0].get_window_stats(item, "key").remaining == 0
    assert limiters[0].hit(item, "another key")
    limiters[0].clear(item, "key")
    assert limiters[1].hit(item, "key")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_reset_does_not_let_more_hits_pass(url: str, strategy: str) -> None:
    """Another process goes on with the window that it knows."""
    stores = [storage(url, prefix=f"reset-{strategy}") for _ in range(2)]
    limiters = [STRATEGIES[strategy](store) for store in stores]
    item = parse("10/hour")
    assert all(limiter.hit(item, "key") for limiter in limiters)
    assert stores[0].reset() == 1
    assert sum(limiter.hit(item, "key") for _ in range(15) for limiter in limiters) == 10


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_hit_with_a_lost_reply_is_counted(pegasus_onebox: Any, url: str, strategy: str, when: str) -> None:
    limiter, item = STRATEGIES[strategy](storage(url)), parse("3/hour")
    assert limiter.hit(item)
    rule = pegasus_onebox.fault("cut", rpc=["incr", "check_and_set"], when=when, count=1, table=url.rpartition("/")[2])
    assert limiter.hit(item)
    rule.remove()
    passed = 2 + sum(limiter.hit(item) for _ in range(5))
    assert passed == (3 if when == "before" else 2)


def test_records_have_the_documented_layout(url: str) -> None:
    store, item = storage(url, prefix="mine"), parse("10/minute")
    for strategy in STRATEGIES.values():
        assert strategy(store).hit(item, "ada")
    rows = dict(shared_table(url).hash_scan("mine:" + item.key_for("ada")))
    start = rows[b"window"].split()[0]
    assert sorted(rows) == sorted([b"window", b"count:" + start, b"moving", b"sliding"])
    assert rows[b"count:" + start] == b"1"
    assert re.fullmatch(rb"\d+:1", rows[b"moving"])
    assert re.fullmatch(rb"\d+ 0 1", rows[b"sliding"])
    for sort_key in rows:
        left = shared_table(url).ttl("mine:" + item.key_for("ada"), sort_key)
        assert left is not None
        assert left <= 123
    assert storage(url).reset() == 0, "of another prefix"
    assert store.reset() == 1


def test_a_moving_window_with_a_large_limit_uses_little_memory(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = storage(url)
    limiter, item = STRATEGIES["moving-window"](store), parse("100000/day")
    monkeypatch.setattr(contrib, "_STEPS", 50)
    for _ in range(300):
        assert limiter.hit(item)
    value = shared_table(url).get("limits:" + item.key_for(), "moving")
    assert value is not None
    assert len(value.split()) <= 50
    assert limiter.get_window_stats(item).remaining == 100000 - 300


def test_errors_have_the_classes_that_limits_expects(pegasus_onebox: Any, url: str) -> None:
    rule = pegasus_onebox.fault("error", rpc="incr", error="ERR_DISK_INSUFFICIENT", table=url.rpartition("/")[2])
    with pytest.raises(PegasusError):
        FixedWindowRateLimiter(storage(url)).hit(parse("1/hour"))
    with pytest.raises(StorageError):
        FixedWindowRateLimiter(storage(url, wrap_exceptions=True)).hit(parse("1/hour"))
    rule.remove()
    assert storage(url).check()
    assert not storage("pegasus://127.0.0.1:1/temp?timeout=0.2").check()
    with pytest.raises(InvalidArgument, match="must name a table"):
        storage(url.rpartition("/")[0])


def test_flask_limiter_limits_requests(pegasus_onebox: Any, url: str) -> None:
    app = Flask("limited")
    limiter = Limiter(lambda: "ada", app=app, storage_uri=url, headers_enabled=True, swallow_errors=True)

    @app.get("/")
    @limiter.limit("2/hour")
    def page() -> str:
        return "page"

    browser = app.test_client()
    answers = [browser.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    rule = pegasus_onebox.fault("error", rpc="data", error="ERR_DISK_INSUFFICIENT", table=url.rpartition("/")[2])
    assert browser.get("/").status_code == 200, "swallow_errors lets pass what cannot be counted"
    rule.remove()
    assert browser.get("/").status_code == 429
