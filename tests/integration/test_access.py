"""Test the admin verbs about the users of a table."""

from __future__ import annotations

from typing import Any

import pytest

from pegasus_green import Client, InvalidArgument, TableNotFound
from tests.conftest import Cluster

ENV = "replica_access_controller.allowed_users"


def test_allowed_users_are_set_read_and_cleared(client: Client, cluster: Cluster) -> None:
    admin, name = client.admin, cluster.table
    assert admin.allowed_users(name) == []
    try:
        admin.set_allowed_users(name, iter(["app", "reports", "app"]))
        assert admin.allowed_users(name) == ["app", "reports"]
        assert admin.get_envs(name)[ENV] == "app,reports"
    finally:
        admin.allow_all_users(name)
    assert admin.allowed_users(name) == []
    assert ENV not in admin.get_envs(name)


@pytest.mark.parametrize(
    ("users", "words"),
    [
        ("app", "iterable of names"),
        ([], "allow_all_users"),
        (["a,b"], "'a,b'"),
        (["app@REALM"], "app@REALM"),
        ([""], "''"),
        ([7], "user"),
    ],
)
def test_invalid_user_names_are_refused(client: Client, cluster: Cluster, users: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        client.admin.set_allowed_users(cluster.table, users)


def test_access_verbs_on_a_missing_table_raise(client: Client) -> None:
    for call in (client.admin.allowed_users, client.admin.allow_all_users):
        with pytest.raises(TableNotFound):
            call("no.such.table")
