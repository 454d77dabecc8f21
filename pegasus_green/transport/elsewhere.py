"""The other addresses of a server whose connection may lead to another machine.

A host name can lead to the wrong machine for a while: the name server is outdated, an address was given to another
machine, or a wildcard name leads to a load balancer. TCP connects to such a machine without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent

from ..errors import AuthenticationFailed, ProtocolError
from ..protocol import fast
from ..protocol.framing import encode_request, parse_reply
from ..protocol.rpc import TTL
from ..protocol.session import ClientSession
from .negotiation import Dialogue, authenticate
from .reach import Dial, TooLong, resolve
from .sockets import Copy

if TYPE_CHECKING:
    from ..options import ClientOptions
    from .authenticator import Authenticator
    from .handover import Target

_KEY = fast.key_argument(b"pegasus_green:elsewhere", b"")
_READ_SIZE = 4096
# How long a server may take to answer the read that tells whether it serves the partition.
ANSWER_SECONDS = 1.0


def find_elsewhere(
    names: Sequence[str],
    known: Any,
    target: Target,
    options: ClientOptions,
    dial: Dial,
    who: Authenticator | None,
    wanted: Callable[[], bool],
) -> tuple[str, Any] | None:
    """Find another address at which a server serves a partition; yields.

    Args:
        names: "host:port", all of the same server.
        known: The socket address at which it does not serve the partition.
        target: The partition.
        options: The client's options.
        dial: Connects to one socket address.
        who: Authenticates connections; None: no authentication.
        wanted: Tells whether to go on.

    Returns:
        The name that leads there, and a connected socket; None if there is no such address.

    Raises:
        AuthenticationFailed: The server was not found, and one of the addresses did not authenticate the client.
    """
    limit = options.connect_timeout
    others = _other_addresses(names, known, limit)
    failed: AuthenticationFailed | None = None
    for name, family, sockaddr in others:
        if not wanted():
            return None
        sock: Any = None
        try:
            sock = dial(sockaddr, family, limit / len(others))
            if who is not None:
                authenticate(who, options, Dialogue(sock, options))
            if _serves(sock, target, options) and wanted():
                found, sock = sock, None
                return name, found
        except AuthenticationFailed as error:
            failed = error
        except (OSError, ProtocolError):
            continue
        finally:
            if sock is not None:
                sock.close()
    if failed is not None:
        try:
            raise failed
        finally:
            del failed  # the traceback of the error holds this frame
    return None


def _other_addresses(names: Sequence[str], known: Any, seconds: float) -> list[tuple[str, int, tuple[Any, ...]]]:
    """Return the addresses of a server except the known one, each with its name and address family; yields.

    Args:
        names: "host:port", all of the same server. A name that cannot be resolved gives no address.
        known: A socket address.
        seconds: Time limit for each name.
    """
    found: dict[Any, tuple[str, int, tuple[Any, ...]]] = {}
    for name in names:
        try:
            with gevent.Timeout(seconds, TooLong(f"not resolved within {seconds:.2f} s")):
                for family, _, _, _, sockaddr in resolve(name):
                    found.setdefault(sockaddr[:2], (name, family, sockaddr))
        except (OSError, UnicodeError):
            continue
    found.pop(known[:2], None)
    return list(found.values())


def _serves(sock: Any, target: Target, options: ClientOptions) -> bool:
    """Tell whether a server answers a read of this partition, on a connection that carries nothing else yet; yields.

    Raises:
        OSError: The connection ended, or no answer came in time.
        ProtocolError: The other end is no Pegasus server.
    """
    # In a forked child, a copy of this greenlet would take the answer from the parent.
    copy = Copy(sock)
    until = monotonic() + ANSWER_SECONDS
    session = ClientSession(options.max_frame)
    frame = encode_request(
        TTL,
        session.free_id(),
        _KEY,
        app_id=target.app_id,
        partition_index=target.index,
        # The server compares only this hash with the partition, and not the key.
        partition_hash=target.index,
        timeout_ms=int(ANSWER_SECONDS * 1000),
        version=options.header_version,
    )
    sock.settimeout(ANSWER_SECONDS)
    sock.sendall(frame)
    frames: list[Any] = []
    while not frames:
        sock.settimeout(max(until - monotonic(), 0.001))
        data = sock.recv(_READ_SIZE)
        if not data:
            raise ConnectionError("the server closed the connection")
        frames = session.feed(data)
    del copy
    # Nothing may follow the answer: these bytes would be lost for the ``Connection`` that takes over the socket.
    return len(frames) == 1 and session.at_rest and parse_reply(frames[0][1]).error == "ERR_OK"
