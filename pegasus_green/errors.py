"""The errors of pegasus_green.

::

    PegasusError
    ├── InvalidArgument (ValueError)         an argument is wrong, so the client did not send it
    ├── ClientClosed                         the client was closed
    ├── WrongThread (RuntimeError)           a Handle or Scanner belongs to another thread
    ├── RequestTimeout (TimeoutError)        no success before the deadline
    ├── TransportError (ConnectionError)
    │   ├── ConnectFailed                    no connection; nothing was sent
    │   │   └── AuthenticationFailed         no ticket, or the server does not accept it
    │   ├── ConnectionLost                   the connection ended while the call waited
    │   └── ForkedConnection                 the call belongs to the parent process
    ├── ProtocolError                        the peer sent bytes that the client cannot decode
    │   └── FrameTooLarge
    ├── MetaError                            the meta server refused
    │   └── MetaUnreachable (TimeoutError)   no meta server gave an answer in time
    ├── TableError
    │   ├── TableNotFound (LookupError)
    │   ├── TableExists
    │   └── TableUnavailable                 being created, dropped, recovered; no primary
    ├── ServerError                          a replica server refused the request
    │   ├── NotServing                       the routes were outdated, or the replica is not ready
    │   ├── Busy, Splitting, NotEnoughReplicas, AccessDenied
    │   └── WriteRejected                    not applied: disk, size, mode of the table
    └── StorageError                         an error of the storage engine, or no complete result
        ├── NotAnInteger (ValueError), IntegerOverflow (OverflowError)
        ├── Incomplete                       the server stopped before it returned a row
        └── CountUnknown                     the server stopped counting at its time limit

``CodecError`` (a ValueError) is a PegasusError, too: the table's codec cannot decode a stored value.

A ``gevent.Timeout`` or ``GreenletExit`` of the application passes through the client unchanged. Every error can be
pickled. Every caller gets an instance of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import CheckResult


class PegasusError(Exception):
    """Root of all errors.

    Attributes:
        code: The error's name in Pegasus ("ERR_BUSY"), or "" if it has none.
        hint: What to check or change, for the commonest errors; "" for the others. ``str(error)`` ends with it.
        table: The table's name, if the call had one.
        operation: The request's short name in Pegasus ("get", "put" for a set), if known.
        address: The server, "host:port", if one was involved.
        sent: Whether an attempt was sent and the client has no readable answer to it.
        attempts: Number of attempts, including those that found no server to send to.
        last_error: The last earlier error of the same call, which is often the reason of this one; None: there was
            none.
        outcome_unknown: True for a write that may or may not have been applied.
        results: All results of a ``*_many`` verb or ``batch_get``, in order and including the errors. Streams and
            ``truncate`` call ``*_many`` verbs for each batch; ``results`` then has those of the call that failed. Empty
            after other verbs.
        done: Number of rows, keys or items in the finished requests of ``multi_set(split=True)`` or
            ``multi_del(split=True)``, or in the finished batches of ``set_stream`` or ``remove_stream``.
        deleted: Number of rows that ``del_range`` or ``truncate`` removed before the error.
        token: After an error of ``truncate``: pass it to ``truncate(resume=)`` to continue. None: start from the
            beginning.
        last_key: After an error of ``del_range``: the sort key of the last removed row. After ``Incomplete``: the sort
            key of the last row that was read; after an ``Incomplete`` of a scan, its hash key and sort key as
            ``keys.encode_key`` joins them. None: there was no row.
    """

    code = ""
    hint = ""
    # The error of any verb can have these. The results have no type, because an exception class cannot be generic.
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
        """Return further facts of this kind of error, for the message."""
        return []


def _message(error: PegasusError) -> str:
    return str(error.args[0]) if error.args and error.args[0] != "" else type(error).__name__


def _brief(error: BaseException) -> str:
    # The text of another error says little without its type.
    return _message(error) if isinstance(error, PegasusError) else f"{type(error).__name__}: {error}"


def _rebuild(cls: type[PegasusError], args: tuple[Any, ...], attributes: dict[str, Any]) -> PegasusError:
    error = cls.__new__(cls, *args)
    error.args = args
    vars(error).update(attributes)
    return error


class InvalidArgument(PegasusError, ValueError):
    """An argument has a wrong type, value or size, so the client did not send it."""

    code = "ERR_INVALID_PARAMETERS"


class ClientClosed(PegasusError):
    """The client was closed before or while the call ran."""

    code = "ERR_SERVICE_NOT_ACTIVE"


class WrongThread(PegasusError, RuntimeError):
    """A ``Handle`` (the result of an ``*_async`` verb) or a scanner was used in a thread that did not make it."""

    hint = "clients, tables and mappings work in any thread: make handles and scanners in the thread that uses them"


class RequestTimeout(PegasusError, TimeoutError):
    """The call did not succeed before its deadline. The deadline includes all attempts.

    ``last_error`` is the reason if the client repeated the call. If ``outcome_unknown`` is set, a write may or may not
    have been applied.

    Attributes:
        timeout: Seconds that the call had, from ``timeout`` or ``client.deadline``; None if they are not known.
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
    """No connection could be made; nothing was sent. The client repeats the call by default."""

    code = "ERR_NETWORK_FAILURE"


class AuthenticationFailed(ConnectFailed):
    """A connection could not be authenticated; no request was sent on it.

    Attributes:
        reason: What failed, one word: "no_ticket", "expired", "keytab", "unknown_client", "unknown_service",
            "clock_skew", "kdc_unreachable", "silent" (the server or the KDC does not answer), "refused", "disabled"
            (the server runs without authentication), "mechanism" (the server offers another one), "protocol",
            "library" (gssapi is not installed), or "other". A KDC is the Kerberos server that issues tickets.
        passing: Whether a later attempt may succeed although nobody changes anything. The client then repeats the call
            by default.
        costly: Whether the attempt costs the server a socket until it restarts. The client waits longer after such
            attempts.
    """

    code = "ERR_UNAUTHENTICATED"
    reason: str = "other"
    passing: bool = False
    costly: bool = False


class ConnectionLost(TransportError):
    """The connection ended while the call waited; ``sent`` tells whether the request may have reached the server.

    The client repeats the call by default. It does not repeat ``incr`` and check-and-* if ``sent`` is True.
    """


FORKED = "the process forked while the call waited; the call continues in the parent"
DEMANDS_AUTH = "the server does not answer without authentication: pass auth=Kerberos(service_fqdn=...)"


class ForkedConnection(TransportError):
    """The call was in flight when the process forked. The call and its reply belong to the parent process."""


class ProtocolError(PegasusError):
    """The peer sent bytes that are not the Pegasus protocol, or an inconsistent message."""

    code = "ERR_INVALID_DATA"


class FrameTooLarge(ProtocolError):
    """The peer announced a frame that is longer than the limit (``max_frame`` bytes)."""


class MetaError(PegasusError):
    """A meta server refused a request or could not answer it; ``code`` has the reason."""

    code = "ERR_NETWORK_FAILURE"


class MetaUnreachable(MetaError, TimeoutError):
    """No meta server gave a usable answer in time."""

    code = "ERR_TIMEOUT"
    hint = "check the meta servers' addresses (default port 34601) and that this machine reaches them"


class TableError(PegasusError):
    """An operation on a table failed."""


class TableNotFound(TableError, LookupError):
    """The meta servers do not know the table."""

    code = "ERR_APP_NOT_EXIST"
    hint = "client.admin.list_tables() lists the tables; client.admin.create_table() creates one"


class TableExists(TableError):
    """A table of that name exists already."""

    code = "ERR_APP_EXIST"


class TableUnavailable(TableError):
    """The table cannot serve now: it is being created, dropped or recovered, or a partition has no primary.

    The client repeats the call by default. After the deadline, this error is ``last_error`` of a RequestTimeout.
    """

    code = "ERR_BUSY_CREATING"


class ServerError(PegasusError):
    """A replica server refused the request and did not apply it. ``code`` is the server's error name.

    If ``outcome_unknown`` is set, an earlier attempt of the same call may have been applied.
    """


class NotServing(ServerError):
    """The server does not serve the partition now: the route was outdated, or the replica is not ready.

    The client repeats the call by default. After the deadline, this error is ``last_error`` of a RequestTimeout.
    """


class Busy(ServerError):
    """The server throttles requests (ERR_BUSY). The client repeats the call with long pauses until its deadline."""

    hint = "a setting (env) of the table limits requests, or its server is overloaded: send less, or retry later"


class Splitting(ServerError):
    """The partition is being split and registers its new half (ERR_SPLITTING), which takes about a second.

    The client repeats the call with long pauses until its deadline.
    """


class NotEnoughReplicas(ServerError):
    """Too few replicas are alive for a write, or too many writes wait (NOT_ENOUGH_MEMBER, CAPACITY_EXCEEDED).

    The client repeats the call until its deadline.
    """


class AccessDenied(ServerError, MetaError):
    """A replica or meta server refuses the user (ACL_DENY, UNAUTHENTICATED). The class is also a MetaError.

    Attributes:
        user: The name that the servers know the client by; "" for a client without ``auth``, None where it is unknown.
    """

    hint = "add the user to the allowed users of the table or of the meta servers; a client without auth= has no user"
    user: str | None = None

    def _more_facts(self) -> list[tuple[str, Any]]:
        return [("user", self.user or None if self.user != "" else "none")]


class WriteRejected(ServerError):
    """The server did not apply the write: its disk is full or broken, the write is too large, or writes are disabled.

    The client does not repeat the call.
    """


class StorageError(PegasusError):
    """The storage engine answered a status other than OK, or could not give a complete result.

    Attributes:
        status: The number of the status; -1 if it is not known.
    """

    status: int = -1


class NotAnInteger(StorageError, ValueError):
    """``incr`` or an ``INT_*`` check found a value that is not a 64-bit integer; nothing was changed.

    Attributes:
        result: After a check, the ``CheckResult``. It has the checked value if ``return_check_value`` was set. After
            ``incr``: None.
    """

    code = "ERR_INVALID_PARAMETERS"
    result: CheckResult[Any] | None = None


class IntegerOverflow(StorageError, OverflowError):
    """The sum of ``incr`` does not fit into 64 bits; nothing was changed.

    Attributes:
        old_value: The stored value.
    """

    code = "ERR_INVALID_PARAMETERS"
    old_value: int = 0


class Incomplete(StorageError):
    """The server stopped at its limit without returning a row, so the client does not know where to continue.

    ``last_key`` is the key of the last row that was read before.

    Attributes:
        rows: Always empty.
    """

    code = "ERR_INCOMPLETE_DATA"
    status = 7
    rows: tuple[()] = ()


class CountUnknown(StorageError):
    """The server stopped counting at its time limit (30 s by default), so there is no count."""

    code = "ERR_INCOMPLETE_DATA"


class CodecError(PegasusError, ValueError):
    """The table's codec cannot decode a stored value.

    Attributes:
        raw: The stored value if ``pop`` or ``popitem`` of a mapping removed it, else None.
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

# Names of the storage statuses: those of the documented API's errors with the same meaning.
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
    """Return a copy of an error, for another caller."""
    return _rebuild(type(error), error.args, dict(vars(error)))


def raise_first(results: list[Any]) -> None:
    """Raise the first error among the results of several requests. Its ``results`` has all of them.

    The raised error is a copy, because an error in its own ``results`` would be a reference cycle.
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
    """Remove the tracebacks of an error that is kept, and of its causes, because they hold frames; return the error."""
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
