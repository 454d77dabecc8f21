"""Test the Celery result backend: examples/celery_app.py with a real worker in each pool and Redis as the broker."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from celery import chord, group
from celery.exceptions import BackendStoreError, ImproperlyConfigured, TaskRevokedError

from pegasus_green import shared_client
from pegasus_green.contrib.celery import PegasusBackend
from pegasus_green.onebox import OneboxProcess
from pegasus_green.shared import shared_table
from tests.contrib.conftest import url_of
from tests.contrib.servers import redis_server, running
from tests.pythons import ROOT

EXAMPLES = ROOT / "examples"
POOLS = {"gevent": ["-P", "gevent", "-c", "50"], "prefork": ["-P", "prefork", "-c", "2"]}
# Only a bound for what hangs.
WAIT = 60
pytestmark = pytest.mark.watchdog(300)


@pytest.fixture(scope="module", params=POOLS)
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """Run a worker of the example in one pool; yield the example module and its cluster."""
    scratch = tmp_path_factory.mktemp("celery")
    tables = {"temp": 8}
    with pytest.MonkeyPatch.context() as patch, redis_server(scratch) as port, OneboxProcess(tables=tables) as box:
        settings = {"CELERY_BROKER": f"redis://127.0.0.1:{port}", "PEGASUS_URL": url_of(box)}
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(EXAMPLES))
        example = importlib.import_module("celery_app")
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", *POOLS[request.param], "-l", "WARNING"]
        with running(command, scratch / "worker.log", cwd=EXAMPLES, **settings):
            try:
                assert example.add.delay(1, 2).get(timeout=WAIT) == 3
            except BaseException:
                print((scratch / "worker.log").read_text()[-4000:])
                raise
            yield example, box
        example.app.close()
        del sys.modules["celery_app"]
        shared_client(url_of(box)).close()


@pytest.fixture
def example(worker: tuple[Any, Any]) -> Any:
    return worker[0]


@pytest.fixture
def box(worker: tuple[Any, Any]) -> Any:
    return worker[1]


def test_tasks_groups_chords_and_a_replica_that_dies(example: Any, box: OneboxProcess) -> None:
    jobs = group(example.add.s(n, n) for n in range(500))()
    box.kill(box.replica_addresses[0])
    assert jobs.get(timeout=WAIT, interval=0.1) == [2 * n for n in range(500)]
    box.restart(box.replica_addresses[0])
    chords = [chord((example.add.s(n, n) for n in range(10)), example.total.s())() for _ in range(5)]
    assert [result.get(timeout=WAIT, interval=0.1) for result in chords] == [90] * 5
    with pytest.raises(ValueError, match="no good"):
        example.fail.delay("no good").get(timeout=WAIT)


def test_the_example_runs(example: Any) -> None:
    done = subprocess.run(
        [sys.executable, "celery_app.py"], cwd=EXAMPLES, capture_output=True, text=True, timeout=WAIT, check=True
    )
    assert "a group: [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]\na chord: 90" in done.stdout


def test_revoked_and_expired_tasks_have_their_state(example: Any, box: OneboxProcess) -> None:
    revoked = example.nap.apply_async((1,), countdown=5)
    revoked.revoke()
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=WAIT)
    late = example.add.apply_async((1, 1), expires=-1)
    with pytest.raises(TaskRevokedError):
        late.get(timeout=WAIT)
    table = shared_table(url_of(box))
    result = example.add.delay(2, 2)
    assert result.get(timeout=WAIT) == 4
    key = f"celery-task-meta-{result.id}"
    assert table.ttl(key, b"") in range(3500, 3601)
    assert table.get(key, b"", default=b"").startswith(b'{"status": "SUCCESS"')
    box.advance(3700)
    assert table.get(key, b"") is None
    result.forget()


def backend(url: str) -> PegasusBackend:
    from celery import Celery

    app = Celery("shop", backend=url, set_as_current=False)
    made = app.backend
    assert isinstance(made, PegasusBackend)
    return made


def test_concurrent_incr_calls_are_all_counted_and_the_record_expires(url: str) -> None:
    results = backend(url)
    gevent.joinall([gevent.spawn(results.incr, "chord-unlock-1") for _ in range(100)], raise_error=True)
    assert results.incr("chord-unlock-1") == 101
    assert shared_table(url).ttl("chord-unlock-1", b"") in range(80_000, 86_401)
    assert results.expire("chord-unlock-1", 50) is True
    assert shared_table(url).ttl("chord-unlock-1", b"") in range(30, 51)
    assert results.expire("absent", 50) is False


def test_wrong_settings_raise_errors_that_name_them(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="must name a table"):
        backend("pegasus://127.0.0.1:34601")
    results = backend(url)
    assert results.as_uri() == url
    with pytest.raises(BackendStoreError, match="max_write_bytes"):
        results.set("key", b"x" * 2_000_000)
