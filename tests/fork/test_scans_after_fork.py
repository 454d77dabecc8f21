"""Test that a scan that is under way at a fork delivers all rows in both processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import gevent
import pytest
from gevent.os import make_nonblocking, nb_read

from pegasus_green import Client
from pegasus_green.onebox import Onebox

pytestmark = pytest.mark.onebox_only


@pytest.fixture(scope="module")
def box() -> Iterator[Onebox]:
    """Serve in another process: copies of the servers in the child would receive requests of the parent."""
    with Onebox(replicas=3, tables={"temp": 8}, process=True) as box:
        yield box


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("parallel", [1, 3])
def test_parent_and_child_finish_a_scan_that_began_before_the_fork(box: Onebox, parallel: int) -> None:
    stored = {(b"h%d" % (n % 20), b"s%03d" % n, b"v") for n in range(300)}
    with Client(box.meta_addresses) as client:
        table = client.table("temp")
        table.set_many(list(stored))
        rows = table.scan(batch_size=7, parallel=parallel)
        found = [next(rows) for _ in range(20)]
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            verdict = b"nothing"
            try:
                found += rows
                verdict = b"whole" if len(found) == 300 and set(found) == stored else b"%d rows" % len(found)
            except BaseException as error:
                verdict = repr(error).encode()
            finally:
                os.write(writer, verdict)
                os._exit(0)
        os.close(writer)
        found += rows
        assert len(found) == 300
        assert set(found) == stored
        make_nonblocking(reader)
        with gevent.Timeout(20.0):
            assert nb_read(reader, 1000) == b"whole"
        os.close(reader)
        try:
            os.waitpid(child, 0)
        except ChildProcessError:  # gevent was faster
            pass
