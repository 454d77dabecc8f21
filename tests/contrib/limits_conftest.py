"""conftest.py of the suite of limits when it runs against our storage: the cases of the storage in memory become ours.

tests/contrib/test_limits.py copies it beside the suite. Databases that the other cases need are not there, so those
cases are left out.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from limits.storage import MemoryStorage

from pegasus_green.contrib.limits import PegasusStorage

URI = os.environ["PEGASUS_URL"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Keep the cases without a storage and the cases of the memory storage."""
    kept, left_out = [], []
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if "uri" in params and "fixture" in params:
            if params["uri"] != "memory://":
                left_out.append(item)
                continue
            params["uri"] = URI
            if params.get("expected_instance") is MemoryStorage:
                params["expected_instance"] = PegasusStorage
        kept.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: Any, nextitem: Any) -> bool | None:
    """Repeat the tests that the suite marks as flaky, as its own plugin does."""
    marker = item.get_closest_marker("flaky")
    if marker is None:
        return None
    for left in reversed(range(marker.kwargs.get("max_runs", 2))):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if left == 0 or all(report.passed for report in reports):
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            break
        item._initrequest()
    return True


@pytest.fixture(autouse=True)
def empty_storage() -> None:
    """Begin each case with an empty storage."""
    PegasusStorage(URI).reset()
