"""A Kerberos realm for tests: MIT's krb5kdc on loopback, with its files in a temporary folder.

It needs the programs of the Debian packages krb5-kdc, krb5-admin-server and krb5-user. ``missing_programs`` returns the
packages that are not installed. Nothing outside the folder is read or written. ``stop`` ends the KDC::

    with Kdc() as kdc:
        keytab = kdc.add("alice")
        os.environ["KRB5_CONFIG"] = kdc.config
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
from gevent import socket
from gevent.subprocess import DEVNULL, PIPE, STDOUT, Popen

# Debian installs the servers' programs in folders that only root has in its path.
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/sbin"))
_PROGRAMS = {
    "krb5kdc": "krb5-kdc",
    "kdb5_util": "krb5-kdc",
    "kadmin.local": "krb5-admin-server",
    "kinit": "krb5-user",
}
START_SECONDS = 20.0
RUN_SECONDS = 30.0

_KRB5_CONF = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
    udp_preference_limit = 1
    clockskew = {clockskew}
    default_ccache_name = FILE:{folder}/ccache
[realms]
    {realm} = {{
        kdc = 127.0.0.1:{port}
    }}
[domain_realm]
    {service_fqdn} = {realm}
"""
_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = ""
    kdc_tcp_listen = 127.0.0.1:{port}
[realms]
    {realm} = {{
        database_name = {folder}/principal
        key_stash_file = {folder}/stash
        acl_file = {folder}/acl
        max_life = {life}s
        max_renewable_life = 0s
    }}
[logging]
    kdc = FILE:{folder}/kdc.log
    default = FILE:{folder}/kdc.log
"""


def missing_programs() -> list[str]:
    """Return the Debian packages that are not installed; empty if a KDC can be started."""
    return sorted({package for program, package in _PROGRAMS.items() if shutil.which(program, path=_PATH) is None})


class Kdc:
    """A realm with its KDC, principals and keytabs.

    Attributes:
        realm: The realm's name.
        service_fqdn: The name of the cluster in its service's principal; need not resolve.
        port: The KDC's port on 127.0.0.1.
        folder: The folder with all its files.
    """

    def __init__(
        self,
        realm: str = "PEGASUS.TEST",
        service_fqdn: str = "onebox.test",
        service_name: str = "pegasus",
        ticket_life: int = 36000,
        clockskew: int = 300,
        port: int = 0,
        folder: str | None = None,
    ) -> None:
        """Describe a realm; ``start`` makes it.

        Args:
            realm: The realm's name.
            service_fqdn: The second part of the service's principal.
            service_name: The first part of the service's principal.
            ticket_life: Longest life of a ticket in seconds.
            clockskew: Seconds by which clocks may differ. Servers accept a ticket for this much longer.
            port: Port of the KDC; 0: a free one.
            folder: Folder for its files; it must not exist, and ``stop`` removes it. None: a temporary folder.
        """
        self.realm, self.service_fqdn, self.service_name = realm, service_fqdn, service_name
        self.port = port
        self.folder = "" if folder is None else os.path.abspath(folder)
        # The process that started it; 0: none.
        self._pid = 0
        self._life, self._clockskew = ticket_life, clockskew
        self._process: Any = None

    def __repr__(self) -> str:
        """Show realm and state."""
        return f"<Kdc {self.realm} 127.0.0.1:{self.port} {'running' if self.running else 'stopped'}>"

    def __enter__(self) -> Kdc:  # noqa: PYI034 - Self is not in Python 3.10
        """Start the KDC."""
        return self.start()

    def __exit__(self, *_error: object) -> None:
        """Stop the KDC."""
        self.stop()

    # ------------------------------------------------------------------------------------------------------------ life
    @property
    def running(self) -> bool:
        """Whether the KDC's process exists; it may be paused."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Kdc:
        """Make the realm, with the service's principal and keytab, and start its KDC; idempotent.

        Raises:
            RuntimeError: A program is missing, failed or did not answer in time.
            OSError: The folder exists, or cannot be made.
        """
        if not self._pid:
            if missing := missing_programs():
                raise RuntimeError(f"no KDC without the Debian packages {' '.join(missing)}")
            if self.folder:
                os.mkdir(self.folder, mode=0o700)
            else:
                self.folder = tempfile.mkdtemp(prefix="pegasus_green_kdc_")
            self._pid = os.getpid()
            try:
                self.port = self.port or free_port()
                self._write("krb5.conf", _KRB5_CONF)
                self._write("kdc.conf", _KDC_CONF)
                self._run("kdb5_util", "create", "-s", "-P", "of-no-secret")
                self.add(self.service, keytab=self.service_keytab)
                self.resume()
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """Stop the KDC and remove its files; do nothing in a forked child."""
        if self._pid not in (0, os.getpid()):
            return
        self.kill()
        if self._pid:
            self._pid = 0
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """Kill the KDC's process: connections to it are refused. ``resume`` starts it again, with all principals."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()

    def pause(self) -> None:
        """Pause the KDC: its port accepts connections, but it does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after ``pause``, or start it again after ``kill``.

        Raises:
            RuntimeError: It does not answer.
        """
        if self.running:
            self._process.send_signal(signal.SIGCONT)
            return
        program = shutil.which("krb5kdc", path=_PATH) or "krb5kdc"
        command = [program, "-n", "-r", self.realm, "-P", f"{self.folder}/kdc.pid"]
        self._process = Popen(command, env=self._environment(), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        until = monotonic() + START_SECONDS
        while not self._answers():
            if not self.running or monotonic() > until:
                raise RuntimeError(f"krb5kdc does not answer on port {self.port}: {self.log()[-500:]}")
            gevent.sleep(0.01)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def log(self) -> str:
        """Return the KDC's log, which has the requests for tickets."""
        path = Path(self.folder, "kdc.log")
        return path.read_text(errors="replace") if path.exists() else ""

    # ------------------------------------------------------------------------------------------------- names and files
    @property
    def config(self) -> str:
        """Path of the krb5.conf, for the environment variable KRB5_CONFIG."""
        return f"{self.folder}/krb5.conf"

    @property
    def service(self) -> str:
        """The service's principal without the realm."""
        return f"{self.service_name}/{self.service_fqdn}"

    @property
    def service_keytab(self) -> str:
        """Path of the keytab of the servers."""
        return f"{self.folder}/service.keytab"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for a process that uses this realm and no other."""
        return {
            "KRB5_CONFIG": self.config,
            "KRB5CCNAME": f"FILE:{self.folder}/ccache",
            # The servers store used tokens in this file.
            "KRB5RCACHENAME": f"file2:{self.folder}/rcache",
        }

    def add(self, principal: str, keytab: str | None = None) -> str:
        """Make a principal with a random key and return the path of its keytab.

        Args:
            principal: Its name without the realm.
            keytab: Path of the keytab; None: a new file in the folder.
        """
        path = keytab or f"{self.folder}/{principal.replace('/', '_')}.keytab"
        self._admin("addprinc", "-randkey", principal)
        self._admin("ktadd", "-norandkey", "-k", path, principal)
        return path

    def remove(self, principal: str) -> None:
        """Remove a principal. Its tickets stay valid."""
        self._admin("delprinc", "-force", principal)

    def change_key(self, principal: str) -> None:
        """Change the key of a principal: its keytabs become useless."""
        self._admin("cpw", "-randkey", principal)

    def set_ticket_life(self, principal: str, seconds: int) -> None:
        """Limit the lifetime of the tickets of one principal, a user or a service.

        Args:
            principal: A user, or the service.
            seconds: The longest lifetime.
        """
        self._admin("modprinc", "-maxlife", f"{seconds} seconds", principal)

    def ticket(self, principal: str, keytab: str, ccache: str | None = None, life: int | None = None) -> str:
        """Write a ticket to a cache, as ``kinit`` does, and return the path of the cache.

        Args:
            principal: The principal of the ticket.
            keytab: Path of its keytab.
            ccache: Path; None: the default one of ``environment``.
            life: Seconds; None: the longest lifetime that the realm allows.
        """
        path = ccache or f"{self.folder}/ccache"
        options = [] if life is None else ["-l", f"{life}s"]
        self._run("kinit", *options, "-k", "-t", keytab, "-c", f"FILE:{path}", principal)
        return path

    def _write(self, name: str, template: str) -> None:
        facts: Mapping[str, object] = {
            "realm": self.realm,
            "port": self.port,
            "folder": self.folder,
            "life": self._life,
            "clockskew": self._clockskew,
            "service_fqdn": self.service_fqdn,
        }
        Path(self.folder, name).write_text(template.format(**facts))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment, "KRB5_KDC_PROFILE": f"{self.folder}/kdc.conf", "PATH": _PATH}

    def _admin(self, *words: str) -> None:
        self._run("kadmin.local", *words)

    def _run(self, program: str, *words: str) -> None:
        realm = () if program == "kinit" else ("-r", self.realm)
        path = shutil.which(program, path=_PATH) or program
        process = Popen([path, *realm, *words], env=self._environment(), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
        out, _ = process.communicate(timeout=RUN_SECONDS)
        # kadmin.local always exits with 0; an error is only in its output.
        said = out.decode(errors="replace")
        if process.returncode or "while " in said or "failed" in said:
            raise RuntimeError(f"{program} {' '.join(words)} failed: {said.strip()}")


def free_port() -> int:
    """Return a free port of 127.0.0.1 for a server that must be told its port, such as MIT's KDC.

    The port is below the range from which the system takes ports for other sockets, so it is still free a moment later.
    """
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except OSError:
        lowest = 32768
    while True:
        port = 10_000 + secrets.randbelow(max(lowest - 10_000, 10_000))
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
