"""Small servers that send exactly what a test wants over TCP. They use the server role of the protocol package.

They share no code with the embedded cluster. A server may be silent, send wrong data, half a frame or a million frames.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent import socket
from gevent.server import StreamServer

from pegasus_green import Client
from pegasus_green.keys import crc64
from pegasus_green.onebox.kdc import free_port
from pegasus_green.protocol.framing import Request, encode_reply
from pegasus_green.protocol.meta import (
    ClusterInfoResponse,
    PartitionConfiguration,
    QueryCfgResponse,
    make_address,
    make_gpid,
)
from pegasus_green.protocol.rpc import BY_NAME, CLUSTER_INFO, GET, INCR, PUT, QUERY_CFG, TTL
from pegasus_green.protocol.rrdb import IncrResponse, ReadResponse, TtlResponse, UpdateResponse
from pegasus_green.protocol.session import ServerSession

Handler = Callable[["Link", Request], object]
APP_ID = 7
RESET = struct.pack("ii", 1, 0)


class Link:
    """One accepted connection."""

    def __init__(self, server: FakeServer, sock: Any) -> None:
        self.server = server
        self.sock = sock
        # As real servers do. Otherwise a second reply can wait for the delayed acknowledgement of the first.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests: list[Request] = []
        self.chunks: list[int] = []
        self.accepted_at = monotonic()
        self.closed = False

    def send(self, data: bytes) -> None:
        """Send bytes; ignore a closed connection."""
        try:
            self.sock.sendall(data)
        except OSError:
            self.closed = True

    def reply(self, request: Request, result: Any = None, error: str = "ERR_OK", name: str | None = None) -> None:
        """Answer a request with a result struct, or with a frame error and no body."""
        raw = result if result is None or isinstance(result, bytes) else result.encode()
        self.send(encode_reply(name or request.name, request.seqid, error, raw))

    def value(self, request: Request, value: bytes = b"", status: int = 0) -> None:
        """Answer a get."""
        self.reply(request, ReadResponse(error=status, value=value, app_id=request.app_id, server=self.server.address))

    def close(self, *, reset: bool = False) -> None:
        """End the connection."""
        if not self.closed:
            self.closed = True
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.sock.close()


class FakeServer:
    """A listening server whose handler gets every request, in the greenlet of its connection.

    Attributes:
        handler: Called with connection and request.
        on_accept: Called with each new connection before anything is read.
        reads: False: nothing is read from connections.
        links: All connections so far.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        on_accept: Callable[[Link], None] | None = None,
        reads: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.handler = handler or answer
        self.on_accept = on_accept
        self.reads = reads
        self.links: list[Link] = []
        self.rows: dict[bytes, bytes] = {}
        self._host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self._server = StreamServer(listener, self._serve)
        self._server.start()
        self.open = True

    @property
    def address(self) -> str:
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """All received requests, by connection."""
        return [request for link in self.links for request in link.requests]

    @property
    def alive(self) -> list[Link]:
        return [link for link in self.links if not link.closed]

    def names(self) -> Counter[str]:
        """Count the requests by their RPC's short name."""
        return Counter(BY_NAME[request.name].label for request in self.requests)

    def stop(self) -> None:
        """Close the port and every connection."""
        if self.open:
            self.open = False
            self._server.stop(timeout=0)
            for link in self.links:
                link.close()

    def _serve(self, sock: Any, _peer: Any) -> None:
        link = Link(self, sock)
        self.links.append(link)
        session = ServerSession(max_frame=1 << 30)
        try:
            if self.on_accept is not None:
                self.on_accept(link)
            while not self.reads:
                gevent.sleep(0.05)
            while not link.closed:
                data = sock.recv(1 << 18)
                if not data:
                    break
                link.chunks.append(len(data))
                for request in session.feed(data):
                    link.requests.append(request)
                    self.handler(link, request)
        except OSError:
            pass
        finally:
            link.close()


def key_of(request: Request) -> bytes:
    """Return the sort key of a get, put, ttl or incr."""
    argument: Any = BY_NAME[request.name].decode_argument(request.data, request.offset)
    raw = argument if isinstance(argument, bytes) else argument.key
    return raw[2 + int.from_bytes(raw[:2], "big") :]


def answer(link: Link, request: Request) -> None:
    """Answer as a replica server with a few rows would; the keys are the sort keys."""
    argument: Any = BY_NAME[request.name].decode_argument(request.data, request.offset)
    rows = link.server.rows
    if request.name == GET.name:
        value = rows.get(argument)
        link.value(request, value or b"", 0 if value is not None else 1)
    elif request.name == PUT.name:
        rows[argument.key] = argument.value
        link.reply(request, UpdateResponse(app_id=request.app_id, decree=1, server=link.server.address))
    elif request.name == TTL.name:
        link.reply(request, TtlResponse(error=0 if argument in rows else 1, ttl_seconds=-1, app_id=request.app_id))
    elif request.name == INCR.name:
        rows[argument.key] = str(int(rows.get(argument.key, b"0")) + argument.increment).encode()
        link.reply(request, IncrResponse(new_value=int(rows[argument.key]), app_id=request.app_id, decree=1))
    else:
        link.reply(request, error="ERR_HANDLER_NOT_FOUND")


def silent(_link: Link, _request: Request) -> None:
    """Never answer."""


class FakeMeta(FakeServer):
    """A meta server: one table, its routes as plain lists.

    Attributes:
        primaries: Address of each partition's primary, "" for none.
        digits: By name: the address that is told besides.
        error: What it answers instead of the routes, unless "ERR_OK".
        forward: The leader that it names with ERR_FORWARD_TO_OTHERS.
        queries: Monotonic times of the route queries.
    """

    def __init__(self, primaries: list[str] | None = None, *, table: str = "temp", **options: Any) -> None:
        super().__init__(self._answer_meta, **options)
        self.table = table
        self.primaries = primaries or []
        self.secondaries: list[str] = []
        self.digits: dict[str, str] = {}
        self.ballots: dict[int, int] = {}
        self.app_id = APP_ID
        self.error = "ERR_OK"
        self.forward = ""
        self.delay = 0.0
        self.queries: list[float] = []

    def _answer_meta(self, link: Link, request: Request) -> None:
        if request.name == QUERY_CFG.name:
            self.queries.append(monotonic())
        if self.delay:
            gevent.sleep(self.delay)
        if request.name == CLUSTER_INFO.name:
            link.reply(request, ClusterInfoResponse(err=self.error))
            return
        argument: Any = QUERY_CFG.decode_argument(request.data, request.offset)
        error = self.error if argument.app_name == self.table or self.error != "ERR_OK" else "ERR_OBJECT_NOT_FOUND"
        link.reply(request, self.routes(error))

    def _raw(self, name: str) -> int:
        """Return the numeric address that is sent with a name, or 0."""
        host, _, port = self.digits.get(name, "").rpartition(":")
        return make_address(host, int(port)) if host else 0

    def routes(self, error: str = "ERR_OK") -> QueryCfgResponse:
        """Return the answer to a route query."""
        if error == "ERR_FORWARD_TO_OTHERS":
            leader = PartitionConfiguration(hp_primary=self.forward, primary=self._raw(self.forward))
            named = [leader] if self.forward else []
            return QueryCfgResponse(err=error, partitions=named)
        if error != "ERR_OK":
            return QueryCfgResponse(err=error)
        partitions = [
            PartitionConfiguration(
                pid=make_gpid(self.app_id, index),
                ballot=self.ballots.get(index, 3),
                primary=self._raw(primary),
                secondaries=[self._raw(address) for address in self.secondaries],
                hp_primary=primary or None,
                hp_secondaries=list(self.secondaries),
            )
            for index, primary in enumerate(self.primaries)
        ]
        return QueryCfgResponse(
            err="ERR_OK", app_id=self.app_id, partition_count=len(partitions), is_stateful=True, partitions=partitions
        )


class Stage:
    """A meta server and replica servers of a test, all closed at its end.

    Partition i of the table "temp" belongs to server ``i % len(servers)`` unless the meta server is told otherwise.
    """

    def __init__(self) -> None:
        self.meta = FakeMeta()
        self.servers: list[FakeServer] = []
        self._others: list[Any] = [self.meta]
        self._clients: list[Client] = []

    def server(self, handler: Handler | None = None, **options: Any) -> FakeServer:
        """Add a replica server; the table has one partition for each."""
        server = FakeServer(handler, **options)
        self.servers.append(server)
        self.meta.primaries.append(server.address)
        return server

    def extra(self, server: Any) -> Any:
        """Register another server to be closed at the end."""
        self._others.append(server)
        return server

    def client(self, metas: list[str] | None = None, **options: Any) -> Client:
        """Make a client of this stage, by default without periodic refresh."""
        client = Client(metas or [self.meta.address], **{"refresh_period": 0.0, **options})
        self._clients.append(client)
        return client

    def table(self, **options: Any) -> Any:
        """Make a client and return its table."""
        return self.client(**options).table("temp")

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for server in [*self._others, *self.servers]:
            server.stop()


def key_for(partition: int, count: int, mark: str = "key") -> bytes:
    """Return a hash key of that partition."""
    for number in range(100_000):
        key = f"{mark}-{number}".encode()
        if crc64(key) % count == partition:
            return key
    raise AssertionError("no key found")


def dead_address() -> str:
    """Return an address where nobody listens, also not another process that runs tests."""
    return f"127.0.0.1:{free_port()}"


class BlackHole:
    """An address where connection attempts are never answered: the queue of the listener is full."""

    def __init__(self) -> None:
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._listener.settimeout(0.0)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._fillers = []
        for _ in range(4):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.settimeout(0.0)
            filler.connect_ex(self._listener.getsockname())
            self._fillers.append(filler)

    def stop(self) -> None:
        for sock in [*self._fillers, self._listener]:
            sock.close()


def connection_of(client: Client, address: str) -> Any:
    """Return the open connection to a server."""
    return client._cluster.pool.peer(address).connection
