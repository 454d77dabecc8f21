"""The servers that a client knows, with at most one connection to each."""

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

from ..errors import (
    FORKED,
    AuthenticationFailed,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    ForkedConnection,
    PegasusError,
)
from ..events import CANNOT_CONNECT, Listeners
from ..options import ClientOptions
from . import fork
from .connection import TICK, Connection
from .elsewhere import find_elsewhere
from .handover import HUB_ENDED, Target
from .negotiation import Dialogue, authenticate, demands_authentication, have_credentials
from .notices import Logs
from .reach import in_digits, reach
from .sockets import dial
from .waits import join, wait

if TYPE_CHECKING:
    from .authenticator import Authenticator

# First pause before an unreachable server is dialled again; it doubles up to the cap, with jitter.
REDIAL_BASE = 0.02
REDIAL_CAP = 0.5
# The same pause after a failed negotiation: the server keeps its end of that connection until it restarts.
RENEGOTIATE_BASE = 1.0
RENEGOTIATE_CAP = 30.0
# If a server has never sent a reply on a connection and owes replies for this long, the client asks it whether it
# requires authentication, and not more often than this.
PROBE_SILENCE = 1.5
PROBE_INTERVAL = 30.0
PROBE_SECONDS = 1.0
# The other addresses of a server are tried at most this often while its connection seems to lead to another machine.
DOUBT_INTERVAL = 1.0


class Peer:
    """One server: its connection and its history.

    Dialling is single-flight: the first caller that needs a connection starts the dial in its own greenlet, and all
    callers wait for it. So a killed caller leaves no half-open connection.

    Attributes:
        address: "host:port" from the routes.
        other: IP address of the same server if the routes have both; "": unknown.
        unused_since: Since when nothing names the server any more; 0: it is in use.
        connection: The open connection, or None.
        dials: Attempts to connect; opened: successful ones; losses: connections that ended.
        failures: Consecutive attempts that failed, or whose connection ended at once without a reply.
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
        "_looking",
        "_doubt_at",
        "_cool_until",
        "_error",
        "_generation",
    )

    def __init__(self, address: str, pool: Pool) -> None:
        """Store the address; no I/O."""
        self.address = address
        self.other = ""
        self.pool = pool
        self.connection: Connection | None = None
        self.dials = self.opened = self.failures = self.losses = 0
        self.bytes_sent = self.bytes_received = self.late = self.timeouts = 0
        self.sent_before = self.received_before = 0
        self.unused_since = 0.0
        self._reached_by = address
        # The greenlet of the dial. A dial is in progress while it runs.
        self._dialling: Any = None
        self._cool_until = 0.0
        self._error = ""
        self.demands_auth = False
        self._dialogue: Dialogue | None = None
        self._refusal: AuthenticationFailed | None = None
        self._probe_at = 0.0
        # The greenlet that tries other addresses, and the earliest time of the next one.
        self._looking: Any = None
        self._doubt_at = 0.0
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
        if self._is_dialling():
            return "negotiating" if self._dialogue is not None else "dialling"
        return "down" if self._error else "idle"

    def inherit(self, other: Peer) -> None:
        """Add the counters of this server from a thread that has ended."""
        for name in ("dials", "opened", "losses", "bytes_sent", "bytes_received", "late", "timeouts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sent_before += other.sent_before
        self.received_before += other.received_before

    def forget_dial(self) -> None:
        """Forget the dialling greenlet, which cannot continue, so that the next caller dials."""
        self._dialling, self._looking, self._cool_until = None, None, 0.0

    def _is_dialling(self) -> bool:
        # Read once: it is shown in other threads, too.
        dialling = self._dialling
        return dialling is not None and not dialling.ready()

    def connect(self, deadline: float) -> Connection | PegasusError:
        """Return the open connection or the error. Dial if needed; yields, at most until deadline.

        Raises:
            BlockingSwitchOutError: The caller is the greenlet that dials.
        """
        mine = self._enter_generation()
        patience = (deadline - monotonic()) / 2
        while True:
            if mine != fork.generation():
                return ForkedConnection(FORKED)
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
                    # The last dial has just failed. Wait for the pause to end, if the deadline allows it.
                    if self._cool_until >= deadline:
                        return self._failure(f"cannot connect{self._because()}")
                    wait(self.pool.ended, self._cool_until - now)
                    continue
                dialling = self._start_dial()
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

    def dial_soon(self) -> None:
        """Start a dial without waiting for it, unless one is in progress or has just failed; never yields."""
        self._enter_generation()
        if not self._is_dialling() and self._cool_until <= monotonic() and not self.pool.closed:
            self._start_dial()

    def _enter_generation(self) -> int:
        """Return the generation of this process. After a fork, forget the dial in progress: it is the parent's."""
        if self._generation != fork.generation():
            # The generation is stored last: after an interruption, the next call does all of this again.
            self._dialling, self._looking, self._cool_until, self._dialogue = None, None, 0.0, None
            self._generation = fork.generation()
        return self._generation

    def _start_dial(self) -> Any:
        # Not limited by the deadline of the first caller, because all callers share the dial.
        dialling = self._dialling = self.pool.spawn(self._dial, self.pool.options.connect_timeout)
        return dialling

    def _open_connection(self) -> Connection | None:
        connection = self.connection
        if connection is not None and connection.lost is not None:
            # The close of this connection was interrupted.
            connection.close(connection.lost)
            self.connection = connection = None
        return connection

    def _because(self) -> str:
        """Return what a running negotiation waits for, and how the last attempt ended."""
        if self._dialogue is None or not self._is_dialling():
            return f": {self._error}" if self._error else ""
        before = f"; before that {self._error}" if self._error else ""
        return f": waiting for {self._dialogue.waits_for}{before}"

    def _failure(self, text: str) -> ConnectFailed:
        """Return an error for one caller. If the last failure was one of authentication, it has the same type."""
        if self._refusal is None:
            return ConnectFailed(text, address=self.address)
        error = AuthenticationFailed(text, address=self.address)
        error.reason, error.passing, error.costly = self._refusal.reason, self._refusal.passing, self._refusal.costly
        if self._refusal.hint:
            error.hint = self._refusal.hint
        return error

    def _dial(self, limit: float) -> None:
        """Make the connection; runs in its own greenlet."""
        self.dials += 1
        mine = fork.generation()
        sock: Any = None
        # An interruption may have left the one of the last dial.
        self._dialogue = None
        try:
            self.pool.prepare()
            self._reached_by, sock = reach(self._names(), limit, self.pool.dial)
            if self.pool.authenticator is not None:
                self._negotiate(sock)
            if mine == fork.generation() and not self.pool.closed:
                self.pool.adopt(self, sock, mine)
        except ForkedConnection:
            # The parent has the connection.
            return
        except Exception as error:
            # Whatever it is: without a pause, every call would dial again at once.
            if mine != fork.generation():
                return
            self._refusal = error if isinstance(error, AuthenticationFailed) else None
            # Another thread may have said so already.
            first = not self._error and self.address not in self.pool.dead
            self.pool.dead[self.address] = True
            self._error = str(error.args[0] if self._refusal else error) or type(error).__name__
            self._cool()
            reason = f"{CANNOT_CONNECT}{self._error}"
            self.pool.tell_lost(self, reason, [self], loud=first)
            if not self.pool.closed:
                self.pool.listeners.tell_noted()
                self.pool.listeners.emit("connection_lost", self.address, reason)
            if not isinstance(error, (OSError, UnicodeError)):  # UnicodeError: the resolver rejects the name
                # A fault of the client, or an exception of a signal handler: gevent reports it with its traceback.
                raise
        else:
            self.opened += 1
            if self.pool.dead.pop(self.address, False):
                self.pool.notices.info(f"back {self.address}", "connected to %s again", self.address)
            self._error = ""
            self._refusal = None
            self._cool_until = 0.0
        finally:
            if sock is not None:
                # If a connection has taken it over, it is empty.
                sock.close()

    def _names(self) -> list[str]:
        """Return the server's names, first the one that worked last time."""
        names = [self.address, self.other] if self.other and self.other != self.address else [self.address]
        return sorted(names, key=lambda name: name != self._reached_by)

    def _negotiate(self, sock: Any) -> None:
        """Authenticate a dialled socket, unless there is already a connection to its address."""
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
        """Find out on a separate connection whether the server ignores requests because it requires authentication."""
        sock: Any = None
        mine = fork.generation()
        try:
            _, sock = reach(self._names(), self.pool.options.connect_timeout, self.pool.dial)
            with gevent.Timeout(PROBE_SECONDS, OSError("no answer")):
                demands = demands_authentication(sock, self.pool.options)
            if mine == fork.generation():
                self.demands_auth = demands
        except OSError:
            # The server does not ask for authentication.
            return
        finally:
            if sock is not None:
                sock.close()

    @property
    def is_unheard(self) -> bool:
        """Whether the server owes replies for a while and has never sent one on this connection."""
        connection = self.connection
        return connection is not None and not connection.session.received and connection.silence >= PROBE_SILENCE

    def doubt(self, target: Target) -> None:
        """Look for the server at its other addresses, if it has some; never yields.

        The routes name the server, but it does not serve the partition or has never answered on the connection. So the
        connection may lead to another machine. It stays in use unless the server answers a read of the partition at
        another address.

        Args:
            target: A partition of which the server is the primary.
        """
        self._enter_generation()
        connection, now = self.connection, monotonic()
        if connection is None or now < self._doubt_at or self.pool.closed:
            return
        self._doubt_at = now + DOUBT_INTERVAL
        looks = self._looking is not None and not self._looking.ready()
        if not looks and (self.other or not in_digits(self.address)):
            self._looking = self.pool.spawn(self._look_elsewhere, connection, target)

    def _look_elsewhere(self, doubted: Connection, target: Target) -> None:
        """Replace the connection if the server serves the partition elsewhere; runs in its own greenlet."""
        pool, mine = self.pool, fork.generation()

        def still_used() -> bool:
            known = pool.peers.get(self.address) is self and not pool.closed
            return known and self.connection is doubted and mine == fork.generation()

        names, who = self._names(), pool.authenticator
        try:
            found = find_elsewhere(names, doubted.sockaddr, target, pool.options, pool.dial, who, still_used)
        except AuthenticationFailed:
            # See RENEGOTIATE_BASE.
            self._doubt_at = monotonic() + RENEGOTIATE_CAP
            return
        if found is not None:
            name, sock = found
            try:
                pool.adopt(self, sock, mine)
            except (OSError, ForkedConnection):
                # It has ended already, or the parent has it.
                return
            finally:
                # If a connection has taken it over, it is empty.
                sock.close()
            self._left(doubted, name)

    def _left(self, old: Connection, name: str) -> None:
        """Leave a connection after the server was found elsewhere, by this name; wait until its calls have ended."""
        self._reached_by = name
        self.dials += 1
        self.opened += 1
        self.losses += 1
        self.sent_before += old.session.issued
        self.received_before += old.session.received
        where = f"{old.sockaddr[0]}:{old.sockaddr[1]}"
        text = "%s led to another machine (%s); the server was found by the address %s"
        self.pool.notices.info(f"elsewhere {self.address}", text, self.address, where, name)
        # The greenlet goes on, but it does not look any more.
        self._looking = None
        while not self.pool.release(old):
            wait(self.pool.ended, TICK)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that belongs to the parent process."""
        self.pool.forget(connection)

    def connection_lost(self, connection: Connection, reason: PegasusError) -> None:
        """Record the end of a connection; the connection calls it; must not yield."""
        if self.connection is connection:
            self._lose(connection, reason)
        else:
            # It was in use until the server was found at another address.
            self.pool.forget(connection)
        text, listeners = str(reason.args[0]), self.pool.listeners
        listeners.note_lost(connection.lifetime, text)
        # A finalizer at the end of a thread must not run code of the application.
        if text != HUB_ENDED:
            listeners.tell_noted()

    def _lose(self, connection: Connection, reason: PegasusError) -> None:
        names = self.pool.names_of(connection)
        self.connection = None
        self.losses += 1
        self.sent_before += connection.session.issued
        self.received_before += connection.session.received
        # A server may accept and close at once (limit of connections per address). It must not be dialled in a loop,
        # so a dial alone does not count as success. A server that has answered gets only a short pause.
        if connection.session.received or monotonic() - connection.born >= REDIAL_CAP:
            self.failures = 0
        if monotonic() - connection.born < REDIAL_CAP:
            self._cool()
        if connection.session.received:
            self.demands_auth = False
        else:
            # Something accepts connections there and does not answer. It may be another machine.
            for name in names:
                name._reached_by = name._names()[-1]
        self.pool.forget(connection)
        if not isinstance(reason, ClientClosed):
            self.pool.tell_lost(self, str(reason.args[0]), names)

    def _cool(self) -> None:
        """Start a pause without dials. It gets longer with every failure."""
        self.failures += 1
        costly = self._refusal is not None and self._refusal.costly
        base, cap = (RENEGOTIATE_BASE, RENEGOTIATE_CAP) if costly else (REDIAL_BASE, REDIAL_CAP)
        pause = min(base * 2 ** min(self.failures - 1, 10), cap)
        self._cool_until = monotonic() + pause * (0.5 + random.random() / 2)

    def silent(self, connection: Connection) -> None:
        """Record that requests wait and nothing arrives; runs in the hub."""
        self.pool.tell_silent(self.pool.names_of(connection))
        probes = self.pool.authenticator is None and monotonic() >= self._probe_at and not self.pool.closed
        if probes and self.is_unheard:
            self._probe_at = monotonic() + PROBE_INTERVAL
            self.pool.spawn(self._probe)


class Pool:
    """All peers of a client.

    Two names of one server share a connection when they resolve to the same address.
    """

    def __init__(self, options: ClientOptions, listeners: Listeners, like: Pool | None = None) -> None:
        """Start empty; no I/O.

        Args:
            options: The client's options.
            listeners: The client's listeners.
            like: The pool of another thread. Credentials, log lines and dead servers are shared with it.

        Raises:
            AuthenticationFailed: The mechanism of the option ``auth`` cannot work here.
        """
        self.options = options
        self.logs: Logs = Logs() if like is None else like.logs
        # The servers that no thread could reach, until one reaches them.
        self.dead: dict[str, bool] = {} if like is None else like.dead
        self.authenticator: Authenticator | None = None
        if options.auth is not None:
            from .authenticator import Authenticator
            from .credentials import Credentials

            known = None if like is None else like.authenticator
            credentials = Credentials(options.auth) if known is None else known.credentials
            self.authenticator = Authenticator(credentials, self.spawn, self.logs.topic("auth"))
        self.listeners = listeners
        self.closed = False
        self.draining = False
        self.ended = Event()
        self.notices = self.logs.topic("connection")
        self.peers: dict[str, Peer] = {}
        self.on_lost: Callable[[Peer], None] = _ignore
        self.on_silent: Callable[[Peer], None] = _ignore
        self._by_sockaddr: dict[Any, Connection] = {}
        self._greenlets: set[Any] = set()
        # The plain sockets of dials. Weak references, because a connection takes over the descriptor.
        self._dialled: weakref.WeakSet[Any] = weakref.WeakSet()

    def __repr__(self) -> str:
        """Show the numbers of known and connected servers."""
        state = "closed" if self.closed else f"connections={len(self._by_sockaddr)}"
        return f"<Pool peers={len(self.peers)} {state}>"

    def peer(self, address: str, other: str = "") -> Peer:
        """Return the peer of an address. Make one for a new address.

        Args:
            address: "host:port" of the server.
            other: Its IP address if it is known; it is tried if the first address does not work.
        """
        peer = self.peers.get(address)
        if peer is None:
            peer = self.peers[address] = Peer(address, self)
        if other:
            peer.other = other
        return peer

    def forget_peers(self, used: set[str], grace: float) -> None:
        """Forget servers that have been unused for ``grace`` seconds, with their counters.

        Their connections are closed. A connection with requests in flight stays, and so does its server.
        """
        now = monotonic()
        for address, peer in self.peers.copy().items():
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
                self.dead.pop(address, None)
        for connection in self.connections:
            self.release(connection)

    def release(self, connection: Connection) -> bool:
        """Close a connection that no server uses any more. Return False if requests are in flight there."""
        names = self.names_of(connection)
        if names and connection.peer not in names:
            connection.peer = names[0]
        if not names and not connection.in_flight:
            connection.close(ConnectionLost("the server was found at another address", address=connection.peer.address))
        return bool(names) or connection.lost is not None

    def spawn(self, run: Callable[..., Any], *args: Any) -> Any:
        """Run a function in a greenlet that ``close`` kills; return the greenlet.

        If the process forks before the greenlet has started, its copy in the child returns ForkedConnection.
        """
        greenlet: Any = gevent.Greenlet(_unless_forked, fork.generation(), run, *args)
        greenlet.rawlink(self._greenlets.discard)
        greenlet.start()
        self._greenlets.add(greenlet)
        if greenlet.ready():
            # A signal handler let the greenlet finish before it was registered.
            self._greenlets.discard(greenlet)
        return greenlet

    def runs_here(self) -> bool:
        """Tell whether the running greenlet is one of these. A signal handler or finalizer may make a call in it."""
        return getcurrent() in self._greenlets

    def prepare(self) -> None:
        """Prepare a dial: get credentials first, because no server is dialled without them; yields.

        Raises:
            AuthenticationFailed: There are none, and they are required.
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
        """Return the open connection to the address that a dialled socket is connected to."""
        known = self._by_sockaddr.get(sock.getpeername())
        return known if known is not None and known.lost is None else None

    def adopt(self, peer: Peer, sock: Any, generation: int) -> None:
        """Give a peer a connection: a new one on the dialled socket, or the open one to the same address.

        Raises:
            ForkedConnection: The process forked since the given fork generation, and this is the child.
        """
        known = self.open_to(sock)
        if known is not None:
            peer.connection = known
            return
        connection = Connection(sock, peer, self.options)
        try:
            connection.open(sock, generation)
            known = self._by_sockaddr.setdefault(connection.sockaddr, connection)
            if known is not connection and known.lost is None:
                # A call of a signal handler let another dial of the same server, by another name, end meanwhile.
                connection.close(ClientClosed("another connection to the server was opened meanwhile"))
                peer.connection = known
                return
            self._by_sockaddr[connection.sockaddr] = connection
            peer.connection = connection
            if self.closed:
                # A signal handler has closed the client during these steps.
                connection.close(ClientClosed("the client was closed"))
                self.forget(connection)
                return
        except BaseException:
            connection.close(ConnectionLost("interrupted while it was opened", address=peer.address))
            raise
        self.notices.debug(f"opened {peer.address}", "connected to %s", peer.address)
        self.listeners.note_opened(connection.lifetime)
        self.listeners.tell_noted()

    def forget(self, connection: Connection) -> None:
        """Remove a lost connection from all names of its server."""
        if self._by_sockaddr.get(connection.sockaddr) is connection:
            self._by_sockaddr.pop(connection.sockaddr, None)
        for peer in self.names_of(connection):
            peer.connection = None

    def names_of(self, connection: Connection) -> list[Peer]:
        """Return the peers that share a connection. Routes can name a server by any of its addresses."""
        return [peer for peer in self.peers.copy().values() if peer.connection is connection]

    def tell_lost(self, peer: Peer, reason: str, names: list[Peer], *, loud: bool = False) -> None:
        """Note and log that a server was lost or cannot be reached, under all its names; must not yield.

        Args:
            peer: The server.
            reason: The reason.
            names: The names of the server.
            loud: Log a warning. A dead server is dialled again and again; only the first failure is a warning.
        """
        if self.closed:
            return
        for name in names:
            self.on_lost(name)
        say = self.notices.warning if loud else self.notices.info
        say(f"lost {peer.address}", "connection to %s: %s", peer.address, reason)

    def tell_silent(self, names: list[Peer]) -> None:
        """Report that a server owes replies and sends nothing, under all its names; must not yield."""
        if not self.closed:
            for name in names:
                self.on_silent(name)

    def leave_dead_hub(self) -> None:
        """Clean up after a hub that was destroyed: nobody waits there any more. Calls no listener."""
        for connection in self.connections:
            connection.close(ClientClosed(HUB_ENDED, address=connection.peer.address))
        for peer in self.peers.copy().values():
            peer.forget_dial()
        if self.authenticator is not None:
            self.authenticator.leave_dead_hub()
        self._greenlets.clear()
        # The greenlets of dials never run again and would keep these sockets open.
        for sock in list(self._dialled):
            sock.close()
        # The closing thread must not wake waiters of the old event.
        self.ended = Event()

    @property
    def user(self) -> str | None:
        """The name that servers use for the client: "" without authentication, None while it is unknown."""
        return "" if self.authenticator is None else self.authenticator.user

    @property
    def connections(self) -> list[Connection]:
        """The open connections."""
        return list(self._by_sockaddr.values())

    def close(self) -> None:
        """Close all connections and end all dials. Every waiting call gets ClientClosed. May be called again."""
        self.closed = True
        for connection in self.connections:
            connection.close(ClientClosed("the client was closed"))
        if self.authenticator is not None:
            self.authenticator.close()
        for greenlet in list(self._greenlets):
            greenlet.kill(block=False)
        self.ended.set()


def outcome_of(dial: Any, peer: Peer) -> Connection | PegasusError:
    """Wait for a spawned ``peer.connect`` and return its result.

    If a signal handler raises GreenletExit in it, gevent treats the exception as a result.
    """
    join(dial)
    connected = dial.get(block=False)
    if isinstance(connected, gevent.GreenletExit):
        return ConnectFailed("the dial was interrupted", address=peer.address)
    outcome: Connection | PegasusError = connected
    return outcome


def _ignore(_peer: Peer) -> None:
    return None


def _unless_forked(generation: int, run: Callable[..., Any], *args: Any) -> Any:
    if generation != fork.generation():
        return ForkedConnection(FORKED)
    return run(*args)
