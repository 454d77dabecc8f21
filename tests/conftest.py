"""Fixtures of all tests: the cluster, the two modes, a leak check and a watchdog."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from gevent import monkey
from gevent.util import print_run_info

from pegasus_green.accelerate import accelerated
from tests.leaks import Snapshot

if TYPE_CHECKING:
    from pegasus_green import Client, Table
    from pegasus_green.onebox import Onebox

try:
    from hypothesis import settings
except ImportError:  # the lane of the oldest dependencies may not have it
    pass
else:
    settings.register_profile("project", deadline=None, database=None, print_blob=True)
    settings.load_profile("project")

TESTS = Path(__file__).parent
BOTH_MODES = ("transport", "integration", "fork", "recipes")
# Tests of functions of the compiled core. They also run without it.
PURE = ("test_protocol_fast.py", "test_protocol_rows.py", "test_protocol_framing.py", "test_keys.py")
LEAK_CHECKED = (*BOTH_MODES, "faults")
# A limit for tests that hang; a loaded machine is slow.
WATCHDOG_SECONDS = 300.0
REAL_STDERR = pytest.StashKey[TextIO]()


# ----------------------------------------------------------------------------------------------- options and selection
def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for a real cluster."""
    group = parser.getgroup("pegasus_green")
    group.addoption(
        "--real-meta",
        default=os.environ.get("PEGASUS_META", ""),
        metavar="HOST:PORT[,HOST:PORT]",
        help="meta servers of a real cluster instead of the embedded one [PEGASUS_META]",
    )
    group.addoption(
        "--real-table",
        default=os.environ.get("PEGASUS_TABLE", "temp"),
        metavar="NAME",
        help="its table for the tests [PEGASUS_TABLE, temp]",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Duplicate stderr before capturing begins."""
    # A shell ignores SIGINT in background jobs, and the processes of the tests would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[REAL_STDERR] = open(os.dup(2), "w", encoding="utf-8", errors="replace")  # noqa: SIM115 - for the watchdog


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the duplicate."""
    config.stash[REAL_STDERR].close()


def pytest_report_header(config: pytest.Config) -> str:
    """Report the versions, the mode and the cluster."""
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("gevent", "greenlet", "thrift"))
    mode = "patched" if monkey.is_module_patched("socket") else "unpatched"
    mode += ", compiled core" if accelerated else ", pure Python"
    lane = os.environ.get("PEGASUS_GREEN_CONTRIB")
    frameworks = f"frameworks of lane {lane}" if lane else "without tests/contrib, which `make test-contrib` runs"
    return f"pegasus_green: {mode}, cluster {config.getoption('--real-meta') or 'embedded'}, {versions}, {frameworks}"


def _area(item: pytest.Item) -> str:
    """Return the directory under tests/ that the test is in."""
    return item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that run in both modes, and skip those that a real cluster cannot run."""
    real = bool(config.getoption("--real-meta"))
    for item in items:
        if _area(item) in BOTH_MODES:
            item.add_marker(pytest.mark.both_modes)
        if item.path.name in PURE:
            item.add_marker(pytest.mark.pure)
        if real and (item.get_closest_marker("onebox_only") or "onebox" in getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.skip(reason="onebox_only: needs the fault control of the embedded cluster"))


# --------------------------------------------------------------------------------------------------- watchdog and leaks
@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the run and print all stacks when a test hangs: first those of greenlets, then those of threads."""
    stderr = item.config.stash[REAL_STDERR]
    marker = item.get_closest_marker("watchdog")
    seconds = float(marker.args[0]) if marker else WATCHDOG_SECONDS

    def show_greenlets(signum: int, frame: object) -> None:
        print(f"\nwatchdog: {item.nodeid} has run for {seconds * 0.9:.0f} s", file=stderr)
        print_run_info(file=stderr)
        stderr.flush()

    before = signal.signal(signal.SIGALRM, show_greenlets)
    signal.setitimer(signal.ITIMER_REAL, seconds * 0.9)
    faulthandler.dump_traceback_later(seconds, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module", autouse=True)
def out_of_sight() -> None:
    """Freeze the objects of earlier modules, so that garbage collections and leak checks do not examine them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a greenlet of the client or a descriptor behind."""
    if _area(request.node) not in LEAK_CHECKED or request.node.get_closest_marker("leaks_ok"):
        yield
        return
    # The check examines all objects that are not frozen, which are only those of this test.
    gc.collect()
    gc.freeze()
    before = Snapshot.take()
    yield
    leaks = before.leaks()
    assert not leaks, "left behind:\n" + "\n".join(leaks)


# ------------------------------------------------------------------------------------------------------------- clusters
@dataclass(frozen=True)
class Cluster:
    """A cluster to test against."""

    metas: list[str]
    table: str
    is_real: bool
    box: Any = None


@pytest.fixture(scope="module")
def onebox() -> Iterator[Onebox]:
    """Serve an embedded cluster in this process: one meta server, three replica servers, table temp of 8 partitions."""
    from pegasus_green.onebox import Onebox

    with Onebox(replicas=3, metas=1, tables={"temp": 8}) as box:
        yield box


@pytest.fixture(scope="session")
def real_table_is_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the table of a real cluster as it was before the tests."""
    from tests.real import restore, rows_of

    metas = [meta for meta in request.config.getoption("--real-meta").split(",") if meta]
    name = request.config.getoption("--real-table")
    before = rows_of(metas, name)
    yield
    print(f"\n{restore(metas, name, before)} rows of table {name} were put back or removed")


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Return the real cluster when one is named, else the embedded one."""
    metas = [meta for meta in request.config.getoption("--real-meta").split(",") if meta]
    if metas:
        request.getfixturevalue("real_table_is_kept")
        return Cluster(metas, request.config.getoption("--real-table"), is_real=True)
    box = request.getfixturevalue("onebox")
    return Cluster(list(box.meta_addresses), "temp", is_real=False, box=box)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """Return a client of the cluster, closed after the test."""
    from pegasus_green import Client

    client = Client(cluster.metas)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def table(client: Client, cluster: Cluster) -> Table:
    """Return the test table."""
    return client.table(cluster.table)


@pytest.fixture
def hash_key(request: pytest.FixtureRequest) -> bytes:
    """Return a hash key of this test alone: a real cluster keeps what earlier runs wrote."""
    return f"{request.node.name[:40]}-{uuid.uuid4().hex}".encode()
