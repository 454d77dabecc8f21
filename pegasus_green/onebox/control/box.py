"""The handle of the embedded cluster in this process: what a program or test says to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..engine.state import Limits
from ..runtime.auth import OneboxAuth
from .assembly import Ports
from .elsewhere import from_any_thread
from .facts import FactMethods
from .failures import FailureMethods
from .port import METHODS
from .process import OneboxProcess
from .tables import TableMethods


class Onebox(TableMethods, FailureMethods, FactMethods):
    """A Pegasus cluster: meta and replica servers, each on a port of its own, made for faults.

    It runs in the hub of the thread that starts it and answers whenever the program waits for something; with
    ``process=True`` it is a process of its own, with the same methods (see ``OneboxProcess``). Use it as a context
    manager, or ``start`` and ``stop`` it.

    Its methods can be called from any native thread: they run in the hub of the thread that has started it.

    Servers are named by index or by address, "host:port". Nothing here blocks: what takes time in a cluster goes on
    by timers, see ``Settings``.

    Args:
        replicas: Number of replica servers; None: 3, or as many as replica_ports has.
        metas: Number of meta servers, of which the first one leads; None: 1, or as many as meta_ports has.
        tables: Partition counts by table name, 4096 at most together; None: a table "temp" with 8 partitions.
        release: "2.6" sends the host_port fields and knows what came with them; "2.5" does not.
        host: IPv4 address to listen on; "0.0.0.0", all of the machine's, needs advertise.
        port: Port of the first meta server; 0: a free one.
        seed: For whatever is random here; None: a random one, see ``seed``.
        limits: Limits of the storage engines.
        advertise: Host name for the host_port fields and the replies' server names; None: the address.
            With host "0.0.0.0" also the name or address whose IPv4 address clients are told in all other places.
        meta_ports: Ports of the meta servers, "34601-34603" or numbers; 0 and None: free ones.
        replica_ports: The same for the replica servers.
        auth: Makes it a secured cluster, whose clients authenticate by Kerberos; None: it is none.
        data: A directory for the data, which then survives the end of the process, also a sudden one: tables, envs,
            rows, decrees. None: it is only in memory. One onebox at a time has a directory.
        sync: With data: an fsync for every commit, so that it also survives the loss of power.
        process: Run it as a process of its own.
        settings: Delays and limits by name, see ``Settings``.

    Example:
        >>> with Onebox(replicas=3, tables={"temp": 8}) as box, Client(box.meta_addresses) as client:
        ...     client.table("temp").set("user:7", "name", "Ada")
        ...     client.table("temp").get("user:7", "name")
        b'Ada'
    """

    def __new__(cls, *args: Any, process: bool = False, **options: Any) -> Onebox:  # noqa: PYI034
        """Create one in this process or, with process=True, as its own."""
        if process:
            return OneboxProcess(*args, **options)  # type: ignore[return-value]
        return super().__new__(cls)

    def __init__(
        self,
        replicas: int | None = None,
        metas: int | None = None,
        tables: Mapping[str, int] | None = None,
        release: str = "2.6",
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int | None = None,
        limits: Limits | None = None,
        advertise: str | None = None,
        meta_ports: Ports | None = None,
        replica_ports: Ports | None = None,
        auth: OneboxAuth | None = None,
        data: str | os.PathLike[str] | None = None,
        sync: bool = False,
        process: bool = False,
        **settings: Any,
    ) -> None:
        """Describe a cluster; nothing is opened before ``start``."""
        cluster = (replicas, metas, tables, release, host, port, seed, limits, advertise, meta_ports, replica_ports)
        super().__init__(*cluster, auth, data, sync, **settings)

    def start(self) -> Onebox:
        """Open the ports, create the tables and serve.

        Example:
            >>> box = Onebox(tables={"users": 4}).start()
            >>> len(box.partitions("users"))
            4
            >>> box.stop()
        """
        self.open()
        return self

    def stop(self) -> None:
        """Close everything; the data is gone unless there is a directory for it.

        With a directory the calling greenlet waits until the last writes are there.

        Example:
            >>> box = Onebox().start()
            >>> box.stop()
        """
        self.close()

    def reset(self) -> None:
        """Make it as it was when it started: its first tables and nothing in them, no faults, all servers alive.

        Tables get new ids, so that clients with old routes ask again. Settings, clock, counted executions, client bugs
        and errors are as at the start, too.

        Example:
            >>> box.create_table("pages", 4)
            2
            >>> box.reset()
            >>> box.has_table("pages")
            False
        """
        self.start_again()

    def __enter__(self) -> Onebox:  # noqa: PYI034 - Self is not in Python 3.10
        """Start."""
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        """Stop."""
        self.stop()


# What goes over the control port can also be called from any thread.
for _name in METHODS:
    setattr(Onebox, _name, from_any_thread(getattr(Onebox, _name)))
