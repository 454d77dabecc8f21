"""The servers a client knows, with at most one connection to each."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.exceptions import BlockingSwitchOutError
from greenlet import getcurrent

from ..errors import AuthenticationFailed, ClientClosed, ConnectFailed, ConnectionLost, ForkedConnection, PegasusError
from ..events import Listeners
from ..options import ClientOptions
from . import fork
from .connection import Connection
from .negotiation import Dialogue, authenticate, demands_authentication, have_credentials
from .notices import Notices
from .reach import reach
from .sockets import dial
from .waits import wait

if TYPE_CHECKING:
    from .authenticator import Authenticator
    from .credentials import Credentials

# Pause before a server that could not be reached is dialled again, doubling up to the cap, with jitter.
REDIAL_BASE = 0.02
REDIAL_CAP = 0.5
# The same after a negotiation that failed: the server keeps its end of that connection until it restarts.
RENEGOTIATE_BASE = 1.0
RENEGOTIATE_CAP = 30.0
# A server that owes replies for so long and has never sent one on this connection is asked whether it demands
# authentication, at most this often.
PROBE_SILENCE = 1.5
PROBE_INTERVAL = 30.0
PROBE_SECONDS = 1.0


class Peer:
    """One server: its connection, and what is known of it beyond that.

    Dialling is single-flight: the first caller that needs a connection starts it, in a greenlet of its own, so that a
    killed caller leaves no half-made connection behind; everybody else waits for the same attempt.

    Attributes:
        address: "host:port" as the routes name it.
        other: The same server's address in digits where the routes tell both; "": none.
        unused_since: When it was first noticed that nothing names the server any more; 0: something does.
        connection: The open connection, or None.
        dials: Attempts to connect; opened: those that succeeded; losses: connections that ended.
        failures: Attempts in a row that failed, or gave a connection that ended at once without a reply.
        bytes_sent, bytes_received, late, timeouts: Counters over all connections.
        demands_auth: Whether it ignored requests of a client without authentication and offers mechanisms.
    """

    __slots__ = (
        "address",
        "other",
        "connection",
        "pool",
        "dials",
        "opened",
        "failures",
        "losses",
        "bytes_sent",
        "bytes_received",
        "late",
        "timeouts",
        "sent_before",
        "received_before",
        "unused_since",
        "demands_auth",
        "_reached_by",
        "_dialling",
        "_dialogue",
        "_refusal",
        "_probe_at",
        "_cool_until",
        "_error",
        "_generation",
    )

    def __init__(self, address: str, pool: Pool) -> None:
        """Know a server; no I/O."""
        self.address = address
        self.other = ""
        self.pool = pool
        self.connection: Connection | None = None
        self.dials = self.opened = self.failures = self.losses = 0
        self.bytes_sent = self.bytes_received = self.late = self.timeouts = 0
        self.sent_before = self.received_before = 0
        self.unused_since = 0.0
        self._reached_by = address
        # The greenlet that dials; whether it still does is its own word.
        self._dialling: Any = None
        self._cool_until = 0.0
        self._error = ""
        self.demands_auth = False
        self._dialogue: Dialogue | None = None
        self._refusal: AuthenticationFailed | None = None
        self._probe_at = 0.0
        self._generation = fork.generation()

    def __repr__(self) -> str:
        """Show address and state."""
        return f"<Peer {self.address} {self.state} dials={self.dials} losses={self.losses}>"

    @property
    def state(self) -> str:
        """One of open, silent (replies owed for longer than ``silence``), dialling, negotiating, down, idle."""
        connection = self.connection
        if connection is not None:
            return "silent" if connection.silence >= self.pool.options.silence else "open"
        if self._dialogue is not None:
            return "negotiating"
        return "dialling" if self._is_dialling() else "down" if self._error else "idle"

    def inherit(self, other: Peer) -> None:
        """Add the counters of the same server in another thread that has ended."""
        for name in ("dials", "opened", "losses", "bytes_sent", "bytes_received", "late", "timeouts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sent_before += other.sent_before
        self.received_before += other.received_before

    def forget_dial(self) -> None:
        """Let the next caller dial: the greenlet that did cannot go on."""
        self._dialling, self._cool_until = None, 0.0

    def _is_dialling(self) -> bool:
        return self._dialling is not None and not self._dialling.ready()

    def connect(self, deadline: float) -> Connection | PegasusError:
        """Return the open connection, dialling if needed, or the error; yields until deadline at the latest.

        Raises:
            BlockingSwitchOutError: The caller is the greenlet that dials.
        """
        if self._generation != fork.generation():
            # The dial that is under way is the parent's.
            self._generation, self._dialling, self._cool_until = fork.generation(), None, 0.0
            self._dialogue = None
        mine = self._generation
        patience = (deadline - monotonic()) / 2
        while True:
            if mine != fork.generation():
                return ForkedConnection("the process forked while the call waited; the parent goes on with it")
            connection = self._open_connection()
            if connection is not None:
                return connection
            if self.pool.closed:
                return ClientClosed("the client is closed")
            now = monotonic()
            if now >= deadline:
                return self._failure(f"no connection in time{self._because()}")
            dialling = self._dialling
            if dialling is None or dialling.ready():
                if self._cool_until > now:
                    # Dialled and failed a moment ago: wait for the pause to end, if the deadline allows it.
                    if self._cool_until >= deadline:
                        return self._failure(f"cannot connect{self._because()}")
                    wait(self.pool.ended, self._cool_until - now)
                    continue
                # Not by the deadline of whoever is first here: the dial is everybody's.
                dialling = self._dialling = self.pool.spawn(self._dial, self.pool.options.connect_timeout)
            if dialling is getcurrent():
                raise BlockingSwitchOutError("a call cannot wait in the greenlet that dials: spawn a greenlet for it")
            wait(dialling, min(patience, deadline - now))
            if self.connection is not None or mine != fork.generation():
                continue
            if not dialling.ready():
                return self._failure(f"no connection within {patience:.2f} s{self._because()}")
            if self._dialling is dialling and monotonic() < deadline:
                if self.pool.closed:
                    return ClientClosed("the client is closed")
                return self._failure(f"cannot connect{self._because()}")

    def _open_connection(self) -> Connection | None:
        connection = self.connection
        if connection is not None and connection.lost is not None:
            # Its closing was interrupted.
            connection.close(connection.lost)
            self.connection = connection = None
        return connection

    def _because(self) -> str:
        """Return what a negotiation that is under way waits for, and how the last attempt ended."""
        if self._dialogue is None:
            return f": {self._error}" if self._error else ""
        before = f"; before that {self._error}" if self._error else ""
        return f": waiting for {self._dialogue.waits_for}{before}"

    def _failure(self, text: str) -> ConnectFailed:
        """Return an error for one caller: of the kind of the last failure, where that was one of authentication."""
        if self._refusal is None:
            return ConnectFailed(text, address=self.address)
        error = AuthenticationFailed(text, address=self.address)
        error.reason, error.passing, error.costly = self._refusal.reason, self._refusal.passing, self._refusal.costly
        if self._refusal.hint:
            error.hint = self._refusal.hint
        return error

    def _dial(self, limit: float) -> None:
        """Make the connection, in a greenlet of its own."""
        self.dials += 1
        mine = fork.generation()
        sock: Any = None
        try:
            self.pool.prepare()
            self._reached_by, sock = reach(self._names(), limit, self.pool.dial)
            if self.pool.authenticator is not None:
                self._negotiate(sock)
            if mine == fork.generation() and not self.pool.closed:
                self.pool.adopt(self, sock)
        except (OSError, UnicodeError) as error:  # the latter for a name that no resolver takes
            if mine != fork.generation():
                return
            self._refusal = error if isinstance(error, AuthenticationFailed) else None
            first = not self._error
            self._error = str(error.args[0] if self._refusal else error) or type(error).__name__
            self._cool()
            self.pool.tell_lost(self, f"cannot connect: {self._error}", [self], loud=first)
        else:
            self.opened += 1
            if self._error:
                self.pool.notices.info(f"back {self.address}", "connected to %s again", self.address)
            self._error = ""
            self._refusal = None
            self._cool_until = 0.0
        finally:
            if sock is not None:
                # A connection that took it over has left it empty.
                sock.close()

    def _names(self) -> list[str]:
        """Return the names to reach the server by, first the one that did last time."""
        names = [self.address, self.other] if self.other and self.other != self.address else [self.address]
        return sorted(names, key=lambda name: name != self._reached_by)

    def _negotiate(self, sock: Any) -> None:
        """Authenticate a dialled socket, unless it leads where a connection is open already."""
        who = self.pool.authenticator
        assert who is not None
        if self.pool.open_to(sock) is None:
            dialogue = self._dialogue = Dialogue(sock, self.pool.options)
            try:
                authenticate(who, self.pool.options, dialogue)
            finally:
                if self._dialogue is dialogue:
                    self._dialogue = None

    def _probe(self) -> None:
        """Find out, on a connection of its own, whether the server ignores requests for want of authentication."""
        sock: Any = None
        mine = fork.generation()
        try:
            _, sock = reach(self._names(), self.pool.options.connect_timeout, self.pool.dial)
            with gevent.Timeout(PROBE_SECONDS, OSError("no answer")):
                demands = demands_authentication(sock, self.pool.options)
            if mine == fork.generation():
                self.demands_auth = demands
        except OSError:
            # Whatever it does, it does not ask for authentication.
            return
        finally:
            if sock is not None:
                sock.close()

    def forget(self, connection: Connection) -> None:
        """Have nothing to do with a connection any more: it is the parent's."""
        self.pool.forget(connection)

    def connection_lost(self, connection: Connection, reason: PegasusError) -> None:
        """Take note of the end of a connection; called by it, must not yield."""
        if self.connection is not connection:
            return
        names = self.pool.names_of(connection)
        self.connection = None
        self.losses += 1
        self.sent_before += connection.session.issued
        self.received_before += connection.session.received
        # A server that accepts and closes at once (its limit of connections per address) must not be hammered: a dial
        # alone is no success. One that has answered is given little time, so that a crash costs no second.
        if connection.session.received or monotonic() - connection.born >= REDIAL_CAP:
            self.failures = 0
        if monotonic() - connection.born < REDIAL_CAP:
            self._cool()
        self.pool.forget(connection)
        if not isinstance(reason, ClientClosed):
            self.pool.tell_lost(self, str(reason.args[0]), names)

    def _cool(self) -> None:
        """Have nobody dial for a while, longer with every failure."""
        self.failures += 1
        costly = self._refusal is not None and self._refusal.costly
        base, cap = (RENEGOTIATE_BASE, RENEGOTIATE_CAP) if costly else (REDIAL_BASE, REDIAL_CAP)
        pause = min(base * 2 ** min(self.failures - 1, 10), cap)
        self._cool_until = monotonic() + pause * (0.5 + random.random() / 2)

    def silent(self, connection: Connection) -> None:
        """Take note that requests are out and nothing comes in; called in the hub."""
        self.pool.tell_silent(self.pool.names_of(connection))
        unheard = not connection.session.received and connection.silence >= PROBE_SILENCE
        if unheard and self.pool.authenticator is None and monotonic() >= self._probe_at and not self.pool.closed:
            self._probe_at = monotonic() + PROBE_INTERVAL
            self.pool.spawn(self._probe)


class Pool:
    """All peers of a client.

    Two names of one server share a connection when they resolve to the same address.
    """

    def __init__(self, options: ClientOptions, listeners: Listeners, credentials: Credentials | None = None) -> None:
        """Start empty; no I/O.

        Args:
            options: The client's.
            listeners: The client's.
            credentials: What the client's other threads authenticate with; None: this is the first.

        Raises:
            AuthenticationFailed: The mechanism of the option ``auth`` cannot work here.
        """
        self.options = options
        self.authenticator: Authenticator | None = None
        if options.auth is not None:
            from .authenticator import Authenticator
            from .credentials import Credentials

            self.authenticator = Authenticator(credentials or Credentials(options.auth), self.spawn)
        self.listeners = listeners
        self.closed = False
        self.draining = False
        self.ended = Event()
        self.notices = Notices("connection")
        self.peers: dict[str, Peer] = {}
        self.on_lost: Callable[[Peer], None] = _ignore
        self.on_silent: Callable[[Peer], None] = _ignore
        self._by_sockaddr: dict[Any, Connection] = {}
        self._greenlets: set[Any] = set()
        # The plain sockets of dials; weakly, as a connection takes the descriptor out of its own.
        self._dialled: weakref.WeakSet[Any] = weakref.WeakSet()

    def __repr__(self) -> str:
        """Show how many servers are known and connected."""
        state = "closed" if self.closed else f"connections={len(self._by_sockaddr)}"
        return f"<Pool peers={len(self.peers)} {state}>"

    def peer(self, address: str, other: str = "") -> Peer:
        """Return the peer of that address, making it if it is new.

        Args:
            address: "host:port" of the server.
            other: Its address in digits where that is known besides; tried where the first leads nowhere.
        """
        peer = self.peers.get(address)
        if peer is None:
            peer = self.peers[address] = Peer(address, self)
        if other:
            peer.other = other
        return peer

    def forget_peers(self, used: set[str], grace: float) -> None:
        """Forget servers that are not used, with their counters, once that has been so for grace seconds.

        Their connections are closed; one with requests in flight stays, and its server is remembered.
        """
        now = monotonic()
        for address, peer in list(self.peers.items()):
            connection = peer.connection
            busy = peer.state in ("dialling", "negotiating") or (connection is not None and connection.in_flight > 0)
            shared = connection is not None and any(name.address in used for name in self.names_of(connection))
            if address in used or busy or shared:
                peer.unused_since = 0.0
            elif not peer.unused_since:
                peer.unused_since = now
            elif now - peer.unused_since >= grace:
                if connection is not None:
                    connection.close(ClientClosed("no route names this server any more"))
                self.peers.pop(address, None)

    def spawn(self, run: Callable[..., Any], *args: Any) -> Any:
        """Run in a greenlet that ``close`` ends, and return it.

        In the child of a fork one that has not begun yet returns ForkedConnection at once: its work is the parent's.
        """
        greenlet: Any = gevent.Greenlet(_unless_forked, fork.generation(), run, *args)
        greenlet.rawlink(self._greenlets.discard)
        greenlet.start()
        self._greenlets.add(greenlet)
        if greenlet.ready():
            # A signal handler has let it run before it was known.
            self._greenlets.discard(greenlet)
        return greenlet

    def runs_here(self) -> bool:
        """Tell whether the running greenlet is one of ours: a signal handler or a finalizer may make a call in it."""
        return getcurrent() in self._greenlets

    def prepare(self) -> None:
        """Get ready to dial: without credentials no server is troubled; yields.

        Raises:
            AuthenticationFailed: There are none, and they are needed.
        """
        if self.authenticator is not None and self.options.auth_required:
            have_credentials(self.authenticator, self.options)

    def dial(self, sockaddr: tuple[Any, ...], family: int, timeout: float) -> Any:
        """Return a connected gevent socket; yields.

        Raises:
            OSError: Refused, unreachable or not answered within timeout seconds.
        """
        return dial(sockaddr, family, timeout, self._dialled.add)

    def open_to(self, sock: Any) -> Connection | None:
        """Return the open connection to the address that a dialled socket leads to."""
        known = self._by_sockaddr.get(sock.getpeername())
        return known if known is not None and known.lost is None else None

    def adopt(self, peer: Peer, sock: Any) -> None:
        """Give a peer the connection of a dialled socket, or the one that leads to the same address already."""
        known = self.open_to(sock)
        if known is not None:
            peer.connection = known
            return
        connection = Connection(sock, peer, self.options)
        try:
            connection.open(sock)
            self._by_sockaddr[connection.sockaddr] = connection
            peer.connection = connection
        except BaseException:
            connection.close(ConnectionLost("interrupted while it was opened", address=peer.address))
            raise
        self.notices.debug(f"opened {peer.address}", "connected to %s", peer.address)
        if self.listeners:
            self.listeners.emit("connection_opened", peer.address)

    def forget(self, connection: Connection) -> None:
        """Drop a lost connection from all names of its server."""
        if self._by_sockaddr.get(connection.sockaddr) is connection:
            del self._by_sockaddr[connection.sockaddr]
        for peer in self.names_of(connection):
            peer.connection = None

    def names_of(self, connection: Connection) -> list[Peer]:
        """Return the peers that share a connection: routes may name its server by any of their addresses."""
        return [peer for peer in self.peers.copy().values() if peer.connection is connection]

    def tell_lost(self, peer: Peer, reason: str, names: list[Peer], *, loud: bool = False) -> None:
        """Pass on that a server was lost or cannot be reached, under all its names; must not yield.

        Args:
            peer: The server.
            reason: Why.
            names: The names that it goes by.
            loud: Log a warning. A server that stays dead is dialled again and again: the first dial is worth one.
        """
        if self.closed:
            return
        for name in names:
            self.on_lost(name)
        say = self.notices.warning if loud else self.notices.info
        say(f"lost {peer.address}", "connection to %s: %s", peer.address, reason)
        if self.listeners:
            self.listeners.emit("connection_lost", peer.address, reason)

    def tell_silent(self, names: list[Peer]) -> None:
        """Pass on that a server owes replies and sends nothing, under all its names; must not yield."""
        if not self.closed:
            for name in names:
                self.on_silent(name)

    def leave_dead_hub(self) -> None:
        """End what belonged to a hub that was destroyed: nobody waits there any more."""
        for connection in self.connections:
            connection.close(ClientClosed("the hub or its thread has ended", address=connection.peer.address))
        for peer in self.peers.values():
            peer.forget_dial()
        if self.authenticator is not None:
            self.authenticator.leave_dead_hub()
        self._greenlets.clear()
        # The greenlets of dials never run again, and would keep these open.
        for sock in list(self._dialled):
            sock.close()
        # Nobody may be woken there, by whoever closes the client.
        self.ended = Event()

    @property
    def credentials(self) -> Credentials | None:
        """What connections authenticate with, None: they do not."""
        return None if self.authenticator is None else self.authenticator.credentials

    @property
    def user(self) -> str | None:
        """The name that the servers know the client by: "" without authentication, None as long as it is unknown."""
        return "" if self.authenticator is None else self.authenticator.user

    @property
    def connections(self) -> list[Connection]:
        """The open connections."""
        return list(self._by_sockaddr.values())

    def close(self) -> None:
        """Close all connections and end all dialling; every waiting call gets ClientClosed. May be called again."""
        self.closed = True
        for connection in self.connections:
            connection.close(ClientClosed("the client was closed"))
        if self.authenticator is not None:
            self.authenticator.close()
        for greenlet in list(self._greenlets):
            greenlet.kill(block=False)
        self.ended.set()


def _ignore(_peer: Peer) -> None:
    return None


def _unless_forked(generation: int, run: Callable[..., Any], *args: Any) -> Any:
    if generation != fork.generation():
        return ForkedConnection("the process forked meanwhile; the parent goes on with it")
    return run(*args)
