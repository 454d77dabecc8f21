"""Test the delays after a drop and a rename, as in a real cluster."""

from __future__ import annotations

import pytest

from pegasus_green import Client, TableNotFound
from pegasus_green.onebox import Onebox


def test_a_drop_and_a_rename_take_effect_after_a_delay(box: Onebox) -> None:
    """Replicas serve a dropped table for a while, and the old name stays valid for a while."""
    with Client(box.meta_addresses) as client:
        admin, name = client.admin, "short.lived"
        app_id = admin.create_table(name, 2)
        table = client.table(name)
        table.set("h", "s", "v")
        box.configure(drop_delay=60.0, rename_delay=60.0)
        admin.drop_table(name)
        with pytest.raises(TableNotFound):
            admin.partitions(name)
        assert table.get("h", "s") == b"v"
        admin.recall_table(app_id)
        assert client.table(name).get("h", "s", timeout=5) == b"v"
        admin.rename_table(name, name + ":2")
        assert len(admin.partitions(name)) == 2
        admin.rename_table(name, name + ":3")
        assert [info.name for info in admin.list_tables() if info.app_id == app_id] == [name + ":3"]
        box.advance(61)
        with pytest.raises(TableNotFound):
            admin.rename_table(name, name + ":4")
        admin.rename_table(name + ":3", name)
