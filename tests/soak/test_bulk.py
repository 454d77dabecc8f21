"""Test export, import and copy of a million rows. `make test` uses 20,000 rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pegasus_green import Client
from pegasus_green.onebox import OneboxProcess
from tests.cli.killing import copy_under_faults, export_and_import, fill

ROWS = int(os.environ.get("PEGASUS_GREEN_SOAK_ROWS", "1000000"))

pytestmark = [
    pytest.mark.soak,
    pytest.mark.onebox_only,
    pytest.mark.watchdog(3000),
    pytest.mark.skipif("PEGASUS_GREEN_SOAK_SECONDS" not in os.environ, reason="only in `make soak`"),
]


def test_a_million_rows_survive_kills(tmp_path: Path) -> None:
    with OneboxProcess(tables={"source": 4, "target": 8, "copied": 4}) as box:
        with Client(box.meta_addresses, timeout=10) as client:
            fill(client.table("source"), ROWS)
        export_and_import(box, tmp_path, ROWS, "rows.jsonl.zst")
        copy_under_faults(box, tmp_path, ROWS)
