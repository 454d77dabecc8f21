"""Test that a scan context is used only once, also when its caller times out."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from pegasus_green import Client
from tests.faults.tools import at_rest

pytestmark = [pytest.mark.onebox_only]

# Name and sequence id, the field of the argument, and its only field, the context id.
SCANS = rb"RPC_RRDB_RRDB_SCAN[\x00-\xff]{4}\x0c\x00\x01\x0a\x00\x01[\x00-\xff]{8}"


def test_a_scan_context_is_used_only_once_after_timeouts(onebox: Any) -> None:
    """A reader times out many times while its requests are under way; it continues with other contexts."""
    rows = {b"%04d" % number: b"v" for number in range(100)}
    with Client(onebox.meta_addresses, timeout=10.0) as client:
        table = client.table("temp")
        table.multi_set(b"scanned", rows)
        onebox.forget_executions()
        rule = onebox.fault("delay", rpc="scan", seconds=0.02)
        found: list[bytes] = []
        interrupted = 0
        scanner = table.hash_scan(b"scanned", batch_size=10)
        try:
            while len(found) < len(rows):
                patience = 0.01 if len(found) % 20 and interrupted < 8 else 5.0
                try:
                    with gevent.Timeout(patience):
                        found.append(next(scanner)[0])
                except gevent.Timeout:
                    interrupted += 1
        finally:
            rule.remove()
            scanner.close()
        counts = {frame[-8:]: 0 for frame in onebox.execution_counts(SCANS)}
        for frame, count in onebox.execution_counts(SCANS).items():
            counts[frame[-8:]] += count
        assert found == sorted(rows)
        assert interrupted >= 2
        assert len(counts) >= 5
        assert set(counts.values()) == {1}, counts
        assert not at_rest(client)
