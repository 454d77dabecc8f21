"""The errors of pegasus_green.

::

    PegasusError
    ├── InvalidArgument (ValueError)         the call cannot be sent as it is
    ├── ClientClosed                         close() came first
    ├── WrongThread (RuntimeError)           a handle or scanner belongs to another thread
    ├── RequestTimeout (TimeoutError)        no success before the deadline
    ├── TransportError (ConnectionError)
    │   ├── ConnectFailed                    no connection; nothing was sent
    │   │   └── AuthenticationFailed         no ticket, or the server and the client do not agree on who they are
    │   ├── ConnectionLost                   the connection ended while the call waited
    │   └── ForkedConnection                 the call belongs to the parent process
    ├── ProtocolError                        the peer sent what cannot be understood
    │   └── FrameTooLarge
    ├── MetaError                            the meta server refused
    │   └── MetaUnreachable (TimeoutError)   no meta server gave an answer in time
    ├── TableError
    │   ├── TableNotFound (LookupError)
    │   ├── TableExists
    │   └── TableUnavailable                 being created, dropped, recovered; no primary
    ├── ServerError                          a replica server refused the request
    │   ├── NotServing                       the routes were old, or the replica is not ready
    │   ├── Busy, Splitting, NotEnoughReplicas, AccessDenied
    │   └── WriteRejected                    not applied: disk, size, mode of the table
    └── StorageError                         the storage engine's status is not OK
        ├── NotAnInteger (ValueError), IntegerOverflow (OverflowError)
        ├── Incomplete                       there is more than the server hands out in one reply
        └── CountUnknown                     the server ran out of its time while counting

``CodecError`` (a ValueError) stands beside them: a stored value is none of the table's codec.

A ``gevent.Timeout`` or ``GreenletExit`` of the application passes through untouched; none of these is a BaseException
of gevent. Every error pickles, and every caller gets an instance of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import CheckResult


class PegasusError(Exception):
    """Root of all errors.

    Attributes:
        code: The error's name, as in Pegasus ("ERR_BUSY"), or "" where there is none.
        table: The table's name, if the call had one.
        operation: The request's short name in Pegasus ("get", "put" for a set), if known.
        address: The server, "host:port", if one was involved.
        sent: Whether a request went out for which no answer is known.
        attempts: Attempts made, those that found no server to send to included; 0 where none was.
        last_error: The error of the last attempt that was repeated, None where none was.
        outcome_unknown: True for a write that may or may not have been applied.
        results: What the other requests of a ``*_many`` verb or ``batch_get`` returned, in order, with this error and
            others in their places; empty after other verbs.
        done: Rows or keys that ``split=True`` had written before.
        deleted: Rows that ``del_range`` or ``truncate`` had removed before.
        token: From where ``truncate`` goes on; None: from the beginning.
        last_key: The sort key of the last row that ``del_range`` removed, or that was read before ``Incomplete`` (of a
            scan: the whole key, as it is encoded). None: there was none.
    """

    code = ""
    hint = ""
    # Any verb's error can carry these. No list of results has one type: an exception class cannot be generic.
    results: Sequence[Any] = ()
    done: int = 0
    deleted: int = 0
    token: str | None = None
    last_key: bytes | None = None

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "",
        table: str | None = None,
        operation: str | None = None,
        address: str | None = None,
        sent: bool = False,
        attempts: int = 0,
        last_error: BaseException | None = None,
        outcome_unknown: bool = False,
        **details: object,
    ) -> None:
        """Create the error; further keywords become attributes."""
        super().__init__(message)
        if code:
            self.code = code
        self.table = table
        self.operation = operation
        self.address = address
        self.sent = sent
        self.attempts = attempts
        self.last_error = last_error
        self.outcome_unknown = outcome_unknown
        for name, value in details.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with all attributes."""
        return _rebuild, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        """Return the message, where it happened, and a hint for the commonest cases."""
        facts = [
            f"{label}={value}"
            for label, value in (
                ("table", self.table),
                ("operation", self.operation),
                ("server", self.address),
                *self._more_facts(),
                ("attempts", self.attempts if self.attempts > 1 else None),
                ("last error", None if self.last_error is None else _brief(self.last_error)),
                ("outcome", "unknown" if self.outcome_unknown else None),
            )
            if value is not None
        ]
        text = _message(self)
        if facts:
            text = f"{text} [{', '.join(facts)}]"
        return f"{text}\nHINT: {self.hint}" if self.hint else text

    def _more_facts(self) -> list[tuple[str, Any]]:
        """Return what a kind of error tells besides."""
        return []


def _message(error: PegasusError) -> str:
    return str(error.args[0]) if error.args and error.args[0] != "" else type(error).__name__


def _brief(error: BaseException) -> str:
    # One of ours without its own facts and hint; a foreign one with its type: str() of many says little alone.
    return _message(error) if isinstance(error, PegasusError) else f"{type(error).__name__}: {error}"


def _rebuild(cls: type[PegasusError], args: tuple[Any, ...], attributes: dict[str, Any]) -> PegasusError:
    error = cls.__new__(cls, *args)
    error.args = args
    vars(error).update(attributes)
    return error


class InvalidArgument(PegasusError, ValueError):
    """An argument that cannot be sent; nothing was."""

    code = "ERR_INVALID_PARAMETERS"


class ClientClosed(PegasusError):
    """The client was closed before or while the call ran."""

    code = "ERR_SERVICE_NOT_ACTIVE"


class WrongThread(PegasusError, RuntimeError):
    """A handle or a scanner was used in another native thread than the one that made it."""

    hint = "clients, tables and mappings work in any thread: make the handle or the scanner where it is used"


class RequestTimeout(PegasusError, TimeoutError):
    """No success within the deadline of the call, all attempts included.

    Attributes:
        timeout: Seconds that the call had, by its own ``timeout`` or what else bounded it; None where nobody counted.
    """

    code = "ERR_TIMEOUT"
    timeout: float | None = None

    def _more_facts(self) -> list[tuple[str, Any]]:
        return [
            ("timeout", None if self.timeout is None else f"{self.timeout:.3g} s"),
            ("sent", ("yes" if self.sent else "no") if self.attempts else None),
            ("attempts", 1 if self.attempts == 1 else None),
        ]


class TransportError(PegasusError, ConnectionError):
    """The connection to a server failed."""

    code = "ERR_SESSION_RESET"


class ConnectFailed(TransportError):
    """No connection could be made; nothing was sent."""

    code = "ERR_NETWORK_FAILURE"


class AuthenticationFailed(ConnectFailed):
    """A connection could not be authenticated; no request was sent on it.

    Attributes:
        reason: What failed, one word: "no_ticket", "expired", "keytab", "unknown_client", "unknown_service",
            "clock_skew", "kdc_unreachable", "silent" (the server or the KDC does not answer), "refused", "disabled"
            (the server runs without authentication), "mechanism" (the server offers another one), "protocol",
            "library" (gssapi is not installed), or "other".
        passing: Whether a later attempt may succeed although nobody changes anything; calls repeat it until their
            deadline.
        costly: Whether the attempt costs the server a socket until it restarts; the pauses between such are longer.
    """

    code = "ERR_UNAUTHENTICATED"
    reason: str = "other"
    passing: bool = False
    costly: bool = False


class ConnectionLost(TransportError):
    """The connection ended while the call waited; ``sent`` tells whether the request may have reached the server."""


class ForkedConnection(TransportError):
    """The call was in flight when the process forked: its reply belongs to the parent, which still waits for it."""


class ProtocolError(PegasusError):
    """The peer sent bytes that are no Pegasus protocol, or a message that is inconsistent."""

    code = "ERR_INVALID_DATA"


class FrameTooLarge(ProtocolError):
    """A frame longer than the limit (``max_frame`` bytes) was announced."""


class MetaError(PegasusError):
    """A meta server refused a request (``code``), or one of several could not answer it."""

    code = "ERR_NETWORK_FAILURE"


class MetaUnreachable(MetaError, TimeoutError):
    """No meta server gave a usable answer in time."""

    code = "ERR_TIMEOUT"
    hint = "check the meta servers' addresses (default port 34601) and that this machine reaches them"


class TableError(PegasusError):
    """Something about a table."""


class TableNotFound(TableError, LookupError):
    """The meta servers do not know the table."""

    code = "ERR_APP_NOT_EXIST"
    hint = "a table is created by an administrator; client.admin.list_tables() shows what is there"


class TableExists(TableError):
    """A table of that name is there already."""

    code = "ERR_APP_EXIST"


class TableUnavailable(TableError):
    """The table is there, or will be, but cannot serve now: it is being created or dropped, or has no primary."""

    code = "ERR_BUSY_CREATING"


class ServerError(PegasusError):
    """A replica server refused the request; it was not applied. ``code`` is the server's error name."""


class NotServing(ServerError):
    """The server does not serve the partition now: the route was old, or the replica is not ready."""


class Busy(ServerError):
    """The server throttles (ERR_BUSY)."""

    hint = "the table has a throttling env, or its server is overloaded: send less, or retry later"


class Splitting(ServerError):
    """The partition is registering its split child (ERR_SPLITTING)."""


class NotEnoughReplicas(ServerError):
    """Too few replicas are alive for a write, or too many writes wait (NOT_ENOUGH_MEMBER, CAPACITY_EXCEEDED)."""


class AccessDenied(ServerError, MetaError):
    """A replica or meta server refuses the user (ACL_DENY, UNAUTHENTICATED); it is a MetaError as well.

    Attributes:
        user: The name that the servers know the client by; "" for a client without ``auth``, None where it is unknown.
    """

    hint = "the allowed users of the table or of the meta servers do not include this one; without auth= there is none"
    user: str | None = None

    def _more_facts(self) -> list[tuple[str, Any]]:
        return [("user", self.user or None if self.user != "" else "none")]


class WriteRejected(ServerError):
    """The write was not applied: disk full or broken, too large, or disabled on this table."""


class StorageError(PegasusError):
    """The storage engine answered a status other than OK; ``status`` is its number."""

    status: int = -1


class NotAnInteger(StorageError, ValueError):
    """incr or an ``INT_*`` check found what is no 64-bit integer; nothing was changed.

    After a check ``result`` is its ``CheckResult``, with the checked value if that was asked for.
    """

    code = "ERR_INVALID_PARAMETERS"
    result: CheckResult[Any] | None = None


class IntegerOverflow(StorageError, OverflowError):
    """incr would leave the range of 64 bits; nothing was changed. ``old_value`` is the value as it is."""

    code = "ERR_INVALID_PARAMETERS"
    old_value: int = 0


class Incomplete(StorageError):
    """The server stopped without a row and does not say how far it came.

    ``last_key`` is the key of the last row before; ``rows`` is empty.
    """

    code = "ERR_INCOMPLETE_DATA"
    status = 7
    rows: tuple[()] = ()


class CountUnknown(StorageError):
    """The server gave up counting after its time limit (30 s by default) and answered -1."""

    code = "ERR_INCOMPLETE_DATA"


class CodecError(PegasusError, ValueError):
    """A stored value that the table's codec cannot decode.

    ``raw`` is the stored value where a mapping has removed it with ``pop`` or ``popitem``, else None.
    """

    code = "ERR_INVALID_DATA"
    raw: bytes | None = None


_BY_CODE: dict[str, type[ServerError]] = {
    "ERR_OBJECT_NOT_FOUND": NotServing,
    "ERR_INVALID_STATE": NotServing,
    "ERR_INACTIVE_STATE": NotServing,
    "ERR_PARENT_PARTITION_MISUSED": NotServing,
    "ERR_TRY_AGAIN": NotServing,
    "ERR_BUSY": Busy,
    "ERR_SPLITTING": Splitting,
    "ERR_NOT_ENOUGH_MEMBER": NotEnoughReplicas,
    "ERR_CAPACITY_EXCEEDED": NotEnoughReplicas,
    "ERR_ACL_DENY": AccessDenied,
    "ERR_UNAUTHENTICATED": AccessDenied,
    "ERR_DISK_INSUFFICIENT": WriteRejected,
    "ERR_DISK_IO_ERROR": WriteRejected,
    "ERR_OPERATION_DISABLED": WriteRejected,
    "ERR_INVALID_DATA": WriteRejected,
}

# Names of the storage statuses, by the documented API's error that means the same.
_STORAGE_CODES = {
    1: "ERR_OBJECT_NOT_FOUND",
    2: "ERR_CORRUPTION",
    3: "ERR_NOT_IMPLEMENTED",
    4: "ERR_INVALID_PARAMETERS",
    5: "ERR_FS_INTERNAL",
    7: "ERR_INCOMPLETE_DATA",
    13: "ERR_TRY_AGAIN",
}


def copy_of(error: PegasusError) -> PegasusError:
    """Return a new error that says the same, for another caller."""
    return _rebuild(type(error), error.args, dict(vars(error)))


def raise_first(results: list[Any]) -> None:
    """Raise the first error among the results of several requests, with all of them in its ``results``.

    What is raised is a copy: with the error itself in its own ``results`` they would be a cycle.
    """
    for result in results:
        if isinstance(result, PegasusError):
            error = copy_of(result)
            error.results = results
            try:
                raise error
            finally:
                # The traceback holds this frame.
                del error


def without_traceback(error: PegasusError) -> PegasusError:
    """Return an error that is kept, and no longer holds the frames that it and its causes went through."""
    chained: BaseException | None = error
    while chained is not None:
        chained.__traceback__ = None
        chained = chained.__cause__ or chained.__context__
    return error


def server_error(code: str, **details: Any) -> ServerError:
    """Return the error for a frame error's name; unknown names give a plain ServerError."""
    return _BY_CODE.get(code, ServerError)(f"the server answered {code}", code=code, **details)


def storage_error(status: int, **details: Any) -> StorageError:
    """Return the error for a storage status."""
    code = _STORAGE_CODES.get(status, "ERR_UNKNOWN")
    return StorageError(f"the storage engine answered status {status}", code=code, status=status, **details)
