"""The generic suites that dogpile.cache ships, with our backend."""

from __future__ import annotations

import os
from typing import Any

from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

ARGUMENTS: dict[str, Any] = {"url": os.environ["SUITE_URL"], "ttl": 600}


class TestBackend(_GenericSerializerTestSuite, _GenericBackendTestSuite):
    backend = "pegasus_green"
    config_args = {"arguments": ARGUMENTS}


class TestDistributedLock(_GenericMutexTestSuite):
    backend = "pegasus_green"
    config_args = {"arguments": {**ARGUMENTS, "distributed_lock": True, "lock_timeout": 10, "lock_sleep": 0.02}}
