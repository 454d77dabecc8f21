"""Test a onebox without free descriptors: it postpones accepts without using CPU, and continues later."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import logging, os, resource, socket, sys, time
import gevent
from pegasus_green.onebox import Onebox

lines = []
class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("pegasus_green.onebox").addHandler(Lines())

with Onebox(replicas=1, tables={"temp": 1}) as box:
    host, _, port = box.meta_addresses[0].rpartition(":")
    meta = box.metas[0]
    ends = [socket.socket() for _ in range(10)]
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, used + 3))
    for end in ends:
        end.setblocking(False)
        end.connect_ex((host, int(port)))
    gevent.sleep(0.2)
    accepted, begin, cpu = meta.accepted, time.monotonic(), time.process_time()
    gevent.sleep(1.0)
    print("accepted", accepted, meta.accepted)
    print("share", (time.process_time() - cpu) / (time.monotonic() - begin))
    print("lines", len(lines), lines[:1])
    for end in ends[: accepted]:
        end.close()
    deadline = time.monotonic() + 20
    while meta.accepted < 10 and time.monotonic() < deadline:
        gevent.sleep(0.05)
    print("after", meta.accepted)
"""

# One more connection than there are free descriptors.
CONTROL = """
import json, logging, os, resource, socket
import gevent
from pegasus_green.onebox import Onebox
from pegasus_green.onebox.control.port import ControlServer

logging.basicConfig(level=logging.WARNING)
with Onebox(tables={"temp": 1}) as box:
    control = ControlServer(box)
    gevent.sleep(0)
    end = socket.socket()
    end.settimeout(0.0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
    host, _, port = control.address.rpartition(":")
    end.connect_ex((host, int(port)))
    gevent.sleep(0.25)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with gevent.socket.create_connection((host, int(port))) as other:
        for one in (end, other):
            one.send(b'{"id": 1, "method": "has_table", "args": ["temp"]}\\n')
        other.settimeout(20)
        print(other.recv(1000))
        print(end.recv(1000))
    end.close()
    control.close()
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_the_control_port_continues_after_a_moment_without_descriptors() -> None:
    done = run(CONTROL)
    answer = 'b\'{"id": 1, "result": true}\\n\'\n'
    assert (done.returncode, done.stdout) == (0, 2 * answer), done.stderr
    assert done.stderr.count("new connections wait: [Errno 24]") == 1
    assert "Traceback" not in done.stderr


def test_without_descriptors_accepts_are_postponed_and_logged_once() -> None:
    done = run(PROGRAM)
    assert done.returncode == 0, done.stderr
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    before, then = map(int, found["accepted"].split())
    assert 0 < before == then < 10
    # Without this the onebox used 100 % of a core.
    assert float(found["share"]) < 0.3
    assert found["lines"].startswith("1 ['127.0.0.1:")
    assert "new connections wait: [Errno 24]" in found["lines"]
    assert found["after"] == "10"
