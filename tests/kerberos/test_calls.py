"""Test calls of authenticated clients: permissions, and changes of servers, tables and connections."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.threadpool import ThreadPool

from pegasus_green import AccessDenied, AuthenticationFailed, Client, Kerberos, MetaUnreachable, Pegasus, open_table
from pegasus_green.onebox import Onebox, SecuredOnebox
from pegasus_green.onebox.kdc import Kdc
from tests.fork.forking import fork
from tests.kerberos.conftest import cut, kerberos, keytab, secure
from tests.waiting import wait_until

ClientOf = Callable[..., Client]
ROOT = Path(__file__).parents[2]


def test_the_allowed_user_reads_and_writes(client_of: ClientOf, box: Onebox) -> None:
    client = client_of()
    table = client.table("temp")
    table.set("h", "s", b"v")
    assert table.get("h", "s") == b"v"
    figures = client.stats()["auth"]
    assert (figures["mechanism"], figures["user"], figures["acquired"], figures["renewals"]) == (
        "GSSAPI",
        "alice",
        1,
        0,
    )
    assert figures["failures"] == figures["refused"] == 0
    assert figures["last_error"] is None
    assert figures["negotiated"] == len(client._cluster.pool.connections) in (2, 3)
    assert 30_000 < figures["ends_in"] <= 36_000
    assert "user=alice" in repr(client._cluster.pool.authenticator)
    gates: list[Any] = [at.gate for server in (*box.metas, *box.servers) for at in server.connections]
    users = {gate.user for gate in gates}
    assert users == {"alice"}


def test_each_connection_negotiates_with_five_messages(client_of: ClientOf, box: Onebox) -> None:
    client_of().table("temp").warm_up()
    for server in box.servers:
        assert server.requests["RPC_NEGOTIATION"] == 5 * server.accepted == 5


def test_calls_work_with_header_version_0(client_of: ClientOf) -> None:
    assert client_of(header_version=0).table("temp").get("h", "s") is None


def test_another_user_is_refused_by_the_table(client_of: ClientOf, box: Onebox) -> None:
    client_of("carol").admin.set_allowed_users("temp", ["alice"])
    client_of("alice").table("temp").set("h", "s", b"v")
    stranger = client_of("bob").table("temp")
    for call in (
        lambda: stranger.get("h", "s"),
        lambda: stranger.set("h", "s", b"x"),
        lambda: list(stranger.scan()),
    ):
        with pytest.raises(AccessDenied) as caught:
            call()
        error = caught.value
        assert (error.user, error.table, error.code) == ("bob", "temp", "ERR_ACL_DENY")
        assert error.address in box.replica_addresses
        assert "user=bob" in str(error)
        assert pickle.loads(pickle.dumps(error)).user == "bob"
    assert client_of("carol").table("temp").get("h", "s") == b"v", "super users may do everything"
    client_of("carol").admin.allow_all_users("temp")
    assert stranger.get("h", "s") == b"v", "a refusal leaves the connection usable"


def test_only_superusers_administer(client_of: ClientOf, box: Onebox) -> None:
    alice = client_of("alice").admin
    for call in (
        lambda: alice.create_table("mine", 4),
        lambda: alice.drop_table("temp"),
        lambda: alice.set_allowed_users("temp", ["alice"]),
    ):
        with pytest.raises(AccessDenied) as caught:
            call()
        assert (caught.value.user, caught.value.address) == ("alice", box.meta_addresses[0])
    assert [info.name for info in alice.list_tables()] == ["temp"]
    assert len(alice.nodes()) == 3
    client_of("carol").admin.create_table("hers", 4)
    assert client_of("alice").table("hers").get("h", "s") is None


def test_a_client_authenticates_with_a_ticket_cache(client_of: ClientOf, realm: Kdc) -> None:
    auth = Kerberos(service_fqdn=realm.service_fqdn)
    path = realm.ticket("bob", keytab(realm, "bob"))
    try:
        client = client_of(auth=auth)
        assert client.table("temp").get("h", "s") is None
        assert client.stats()["auth"]["user"] == "bob"
    finally:
        os.unlink(path)


def test_a_client_authenticates_with_a_keytab_named_by_the_environment(
    client_of: ClientOf, realm: Kdc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRB5_CLIENT_KTNAME", keytab(realm, "bob"))
    monkeypatch.setenv("KRB5CCNAME", f"MEMORY:{os.getpid()}-{monotonic()}")
    client = client_of(auth=Kerberos(service_fqdn=realm.service_fqdn))
    assert client.table("temp").get("h", "s") is None
    assert client.stats()["auth"]["user"] == "bob"


def test_a_client_is_configured_by_a_url_or_a_property_file(box: Onebox, realm: Kdc, tmp_path: Path) -> None:
    path = tmp_path / "pegasus.properties"
    path.write_text(
        f"auth_protocol = kerberos\nkerberos_service_name=pegasus\nkerberos_service_fqdn={realm.service_fqdn}\n"
        f"kerberos_principal=alice\nkerberos_keytab={keytab(realm, 'alice')}\n"
    )
    meta = box.meta_addresses[0]
    parts = f"auth=kerberos&service_fqdn={realm.service_fqdn}&principal=alice&keytab={keytab(realm, 'alice')}"
    for query in (parts, f"auth=properties:{path}"):
        table: Any = open_table(f"pegasus://{meta}/temp?{query}")
        assert table.get("h", "s") is None
        table.client.close()


def test_a_client_without_authentication_gets_a_hint(box: Onebox) -> None:
    with Client(box.meta_addresses, timeout=2.5) as client:
        with pytest.raises(MetaUnreachable) as caught:
            client.table("temp").get("h", "s")
        assert "auth=Kerberos" in caught.value.hint
        assert "auth" not in client.stats()
    with Client(box.meta_addresses, timeout=2.5) as client:
        box.pause_meta(0)
        box.pause_meta(1)
        with pytest.raises(MetaUnreachable) as caught:
            client.table("temp").get("h", "s")
        assert "auth=" not in caught.value.hint, "a dead server is told apart"
        box.resume_meta(0)
        box.resume_meta(1)


def test_without_mandatory_authentication_other_clients_have_no_user(realm: Kdc) -> None:
    with Onebox(auth=secure(realm, mandatory=False)) as box, Client(box.meta_addresses) as client:
        assert client.table("temp").get("h", "s") is None
        box.set_envs("temp", {"replica_access_controller.allowed_users": "alice"})
        with pytest.raises(AccessDenied) as caught:
            client.table("temp").get("h", "s")
        assert (caught.value.user, "user=none" in str(caught.value)) == ("", True)
        with Client(box.meta_addresses, auth=kerberos(realm)) as alice:
            assert alice.table("temp").get("h", "s") is None


def test_a_thousand_greenlets_at_once(client_of: ClientOf, realm: Kdc) -> None:
    before = realm.log().count("AS_REQ")
    client = client_of(timeout=20.0)
    table = client.table("temp")
    callers = [gevent.spawn(table.set, f"h{number}", "s", b"v") for number in range(1000)]
    gevent.joinall(callers, raise_error=True)
    figures = client.stats()["auth"]
    assert figures["acquired"] == 1
    # The second meta server is asked if the first takes longer than meta_stagger.
    assert figures["negotiated"] in (4, 5)
    # One request, after the one that the KDC answers with "preauthentication needed".
    assert realm.log().count("AS_REQ") - before <= 2


def test_native_threads_share_the_credentials(client_of: ClientOf, box: Onebox, realm: Kdc) -> None:
    """Credentials are acquired once, and each connection of each thread negotiates."""
    before = realm.log().count("AS_REQ")
    client = client_of(timeout=20.0)
    table = client.table("temp")
    done: list[int] = []
    # The connections of a thread end with it, so all threads stay until the connections are counted.
    counted = threading.Barrier(5, timeout=60)

    def work(thread: int) -> None:
        callers = [gevent.spawn(table.set, f"h{thread}-{number}", "s", b"v") for number in range(50)]
        gevent.joinall(callers, raise_error=True)
        assert table.get(f"h{thread}-0", "s") == b"v"
        done.append(thread)
        counted.wait()

    pool = ThreadPool(4)
    try:
        jobs = [pool.spawn(work, number) for number in range(4)]
        wait_until(lambda: len(done) == 4, 60.0)
        servers: tuple[Any, ...] = (*box.metas, *box.servers)
        connections: list[Any] = [connection for server in servers for connection in server.connections]
        users = {connection.gate.user for connection in connections}
        figures = client.stats()["auth"]
        counted.wait()
        for job in jobs:
            job.get(timeout=60)
    finally:
        pool.kill()
    assert (figures["acquired"], figures["renewals"], figures["failures"], figures["refused"]) == (1, 0, 0, 0)
    # Each thread has one to each of the three replica servers. At least one thread has one to a meta server.
    assert 4 * 3 + 1 <= len(connections) <= figures["negotiated"] <= sum(server.accepted for server in servers)
    assert users == {"alice"}
    assert realm.log().count("AS_REQ") - before <= 2


def test_calls_continue_after_a_failover_of_the_leader(client_of: ClientOf, box: Onebox) -> None:
    client = client_of(timeout=5.0, refresh_interval=0.05)
    table = client.table("temp")
    table.set("h", "s", b"v")
    box.kill_meta(0)
    client.admin.list_tables(timeout=10.0)
    assert client._cluster.meta.leader == box.meta_addresses[1]
    assert table.get("h", "s") == b"v"


def test_a_scan_during_a_split_is_exact(client_of: ClientOf, box: Onebox) -> None:
    client = client_of(timeout=10.0)
    table = client.table("temp")
    table.set_many([(f"h{number}", "s", b"v") for number in range(500)])
    scan = iter(table.scan(batch_size=20))
    seen = [next(scan)[0] for _ in range(30)]
    client_of("carol").admin.start_split("temp", 16)
    for number, row in enumerate(scan):
        seen.append(row[0])
        if number % 100 == 0:
            cut(box)
    assert len(set(seen)) == 500


def test_connections_that_are_cut_negotiate_again(client_of: ClientOf, box: Onebox) -> None:
    client = client_of(timeout=5.0)
    table = client.table("temp")
    table.set("h", "s", b"v")
    for _ in range(5):
        assert cut(box) >= 1
        assert table.get("h", "s") == b"v"
    assert client.stats()["auth"]["acquired"] == 1


def test_a_server_without_the_key_of_the_service_is_reported(client_of: ClientOf, realm: Kdc) -> None:
    """The KDC knows the service, but the keytab of the server has no key for it: the server is silent at INITIATE."""
    if "pegasus/other.test" not in realm.log():
        realm.add("pegasus/other.test")
    client = client_of(auth=kerberos(realm, service_fqdn="other.test"), timeout=2.0, auth_timeout=0.4)
    before = client._cluster.pool.authenticator
    with pytest.raises(MetaUnreachable) as caught:
        client.table("temp").get("h", "s")
    last = caught.value.last_error
    assert isinstance(last, AuthenticationFailed)
    assert (last.reason, last.passing, last.costly) == ("silent", True, True)
    assert "INITIATE" in str(last)
    assert "service_fqdn" in caught.value.hint
    assert before is not None
    assert before.refused <= 4, "each costs the server a socket, so the pauses are long"


def test_no_secret_is_in_logs_and_reprs(client_of: ClientOf, realm: Kdc, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = client_of()
    client.table("temp").set("h", "s", b"v")
    pool = client._cluster.pool
    mechanism: Any = pool.authenticator.credentials._mechanism  # type: ignore[union-attr]
    exchange = mechanism.begin()
    token = exchange.initial()
    gevent.sleep(0.05)
    texts = [caplog.text, repr(client.options), repr(pool.authenticator), repr(mechanism), repr(exchange), repr(pool)]
    texts += [str(client.stats())]
    with open(keytab(realm, "alice"), "rb") as file:
        key = file.read()[-32:]
    for text in texts:
        assert repr(token[40:60]) not in text
        assert token.hex()[80:120] not in text
        assert repr(key[:8])[2:-1] not in text


def test_the_documented_api_reports_that_it_cannot_authenticate(box: Onebox) -> None:
    """It has no authentication options, and its error names the other API."""
    assert not hasattr(Pegasus, "auth")


def test_the_pytest_fixture_serves_a_secured_cluster(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pegasus_green\n"
        "def test_it(pegasus_kerberos):\n"
        "    auth = pegasus_kerberos.kerberos('alice')\n"
        "    with pegasus_green.Client(pegasus_kerberos.box.meta_addresses, auth=auth) as client:\n"
        "        client.table('temp').set('h', 's', b'v')\n"
        "        assert client.stats()['auth']['user'] == 'alice'\n"
        "    assert pegasus_kerberos.box.client_bugs == []\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documented_command_starts_a_secured_onebox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, realm: Kdc
) -> None:
    folder = tmp_path / "realm"
    command = [sys.executable, "-m", "pegasus_green", "onebox", "--port=0", f"--kdc={folder}", "--kdc-user=alice"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            meta = lines[2].split("meta=")[1].split()[0]
            monkeypatch.setenv("KRB5_CONFIG", f"{folder}/krb5.conf")
            parts = f"auth=kerberos&service_fqdn=onebox.test&principal=alice&keytab={folder}/alice.keytab"
            table: Any = open_table(f"pegasus://{meta}/temp?{parts}")
            table.set("user:7", "name", "Ada")
            assert table.get("user:7", "name") == b"Ada"
            table.client.close()
        finally:
            process.terminate()
    assert process.returncode == 0
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_stop_a_secured_onebox(realm: Kdc) -> None:
    with SecuredOnebox(users=["eve"]) as cluster:
        assert fork("os.fork", cluster.stop)() == 0
        assert cluster.kdc.running
        with Client(cluster.box.meta_addresses, auth=cluster.kerberos("eve")) as client:
            assert client.table("temp").get("h", "s") is None


def test_a_secured_onebox_restores_the_environment(monkeypatch: pytest.MonkeyPatch, realm: Kdc) -> None:
    monkeypatch.setenv("KRB5_CONFIG", "/before")
    monkeypatch.delenv("KRB5CCNAME")
    with SecuredOnebox(users=["dora"]) as cluster:
        assert os.environ["KRB5_CONFIG"] == cluster.kdc.config
        with Client(cluster.box.meta_addresses, auth=cluster.kerberos("dora")) as client:
            assert client.table("temp").get("h", "s") is None
    assert os.environ["KRB5_CONFIG"] == "/before"
    assert "KRB5CCNAME" not in os.environ
