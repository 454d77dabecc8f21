"""Test gunicorn --preload -k gevent on a secured cluster: each worker acquires tickets and negotiates by itself."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from typing import Any

import gevent
import pytest
from gevent import subprocess

from pegasus_green.onebox import Onebox
from pegasus_green.onebox.kdc import Kdc
from tests.fork.test_gunicorn import answers, fetch
from tests.kerberos.conftest import keytab
from tests.pythons import OLDEST_FOR_GUNICORN, ROOT, gevent_version
from tests.transport.fakes import dead_address
from tests.waiting import wait_until

pytest.importorskip("gunicorn")
pytestmark = pytest.mark.skipif(
    gevent_version() < OLDEST_FOR_GUNICORN, reason="gunicorn's gevent worker refuses gevent before 24.10.1"
)
CONFIG = ROOT / "tests" / "gunicorn_conf.py"
PAGES = 60


def test_each_preloaded_worker_authenticates_by_itself(box: Onebox, realm: Kdc) -> None:
    before = realm.log().count("AS_REQ")
    address = dead_address()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "-c", str(CONFIG), "--bind", address),
            *("--workers", "2", "tests.kerberos.gunicorn_app:application"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PEGASUS_META": ",".join(box.meta_addresses),
            "SERVICE_FQDN": realm.service_fqdn,
            "PRINCIPAL": "alice",
            "KEYTAB": keytab(realm, "alice"),
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        wait_until(lambda: answers(address), 60.0)
        facts: list[Any] = []
        with gevent.Timeout(60):
            # Until both workers have answered: the kernel chooses the worker of a connection.
            while len({one["pid"] for one in facts}) < 2 or len(facts) < PAGES:
                start = len(facts)
                pages = [gevent.spawn(fetch, address, f"/?mark=page-{start + number}.") for number in range(PAGES)]
                gevent.joinall(pages, raise_error=True)
                facts += [page.value for page in pages]
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    assert process.pid not in {one["pid"] for one in facts}
    assert {(one["new"], one["boot"], one["user"]) for one in facts} == {(1, "loaded", "alice")}
    assert {(one["failures"], one["refused"]) for one in facts} == {(0, 0)}
    # Each worker negotiates by itself; its copy of the client also counts the connections of the master.
    assert min(one["negotiated"] for one in facts) >= 3
    assert sum(server.accepted for server in (*box.metas, *box.servers)) >= 3 * 2
    assert set(Counter(box.execution_counts(rb"page-\d+\.")).values()) == {1}
    # The master's request, one of each worker, and the answers "preauthentication needed" before them.
    assert 3 <= realm.log().count("AS_REQ") - before <= 6
