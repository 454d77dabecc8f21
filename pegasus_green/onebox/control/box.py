"""The handle of an embedded cluster in this process, for programs and tests."""

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
    """A Pegasus cluster for tests: meta and replica servers, each on its own port, with injectable faults.

    Its servers are greenlets in the thread that starts it. They run while this thread waits in gevent, for example for
    a reply. With ``process=True`` it is a separate process with the same methods (see ``OneboxProcess``). Use it as a
    context manager, or call ``start`` and ``stop``.

    Its methods, except ``start``, ``stop`` and ``wait``, can be called from any native thread. They run in the thread
    that has started it.

    Arguments name a server by its index or by its address, "host:port". Methods do not wait: what takes time in a
    cluster, such as a failover, happens later by timers. ``Settings`` has the delays.

    Args:
        replicas: Number of replica servers; None: 3, or as many as replica_ports has.
        metas: Number of meta servers; the first one is the leader. None: 1, or as many as meta_ports has.
        tables: Partition counts by table name, at most 4,096 partitions in all; None: a table "temp" with 8 partitions.
        release: "2.6": send the fields with host names and support the features of that release. "2.5": do not.
        host: IPv4 address to listen on; "0.0.0.0", all addresses of the machine, needs advertise.
        port: Port of the first meta server; 0: a free one.
        seed: Seed of all random numbers; None: a random one. The attribute ``seed`` has its value.
        limits: Limits of the storage engines, a ``Limits``; None: those of a real server.
        advertise: Host name by which replies name the servers; None: their address. With host "0.0.0.0": a host name
            or address at which clients reach this machine; replies have its IPv4 address, too.
        meta_ports: Ports of the meta servers, "34601-34603" or numbers; 0 and None: free ones.
        replica_ports: Ports of the replica servers, as meta_ports.
        auth: A ``OneboxAuth``: the cluster requires Kerberos authentication. None: it requires none.
        data: A directory for tables, envs, rows and decrees (the numbers of writes). They survive the end of the
            process, also a kill. None: the data is only in memory. Only one onebox at a time can use a directory.
        sync: With data: call fsync for every commit, so that the data also survives a loss of power.
        process: Run the cluster in a separate process.
        **settings: Delays and limits by name, see ``Settings``.

    Attributes:
        seed: The seed of all random numbers. Pass it to repeat a run.
        settings: The ``Settings``. ``configure`` changes them.
        client_bugs: Texts about requests that would have crashed a real server. A test should check that it is empty.
        errors: Exceptions inside the onebox. A test should check that it is empty.

    Example:
        >>> with Onebox(replicas=3, tables={"temp": 8}) as box, Client(box.meta_addresses) as client:
        ...     client.table("temp").set("user:7", "name", "Ada")
        ...     client.table("temp").get("user:7", "name")
        b'Ada'
    """

    def __new__(cls, *args: Any, process: bool = False, **options: Any) -> Onebox:  # noqa: PYI034
        """Create one in this process or, with process=True, in a separate one."""
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
        **settings: float | None,
    ) -> None:
        """Describe a cluster; ``start`` opens it."""
        cluster = (replicas, metas, tables, release, host, port, seed, limits, advertise, meta_ports, replica_ports)
        # mypy would take settings of another type for arguments that *cluster may lack.
        others: dict[str, Any] = settings
        super().__init__(*cluster, auth, data, sync, **others)

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
        """Close everything. Without a data directory, the data is lost.

        With a data directory, the calling greenlet waits until the last writes are stored.

        Example:
            >>> box = Onebox().start()
            >>> box.stop()
        """
        self.close()

    def reset(self) -> None:
        """Restore the state after the start: the first tables without rows, no faults, all servers alive.

        Tables get new ids, so clients with old routes query them again. Settings, clock, execution counters, client
        bugs and errors are restored, too.

        Example:
            >>> box.create_table("pages", 4)
            2
            >>> box.reset()
            >>> box.has_table("pages")
            False
        """
        self.start_again()

    def __enter__(self) -> Onebox:  # noqa: PYI034 - Self is not in Python 3.10
        """Start the cluster."""
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        """Stop the cluster."""
        self.stop()


# The methods of the control port can also be called from any thread.
for _name in METHODS:
    setattr(Onebox, _name, from_any_thread(getattr(Onebox, _name)))
