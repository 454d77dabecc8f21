"""The base class of all verbs: table, codec, and the conversion of arguments to bytes and seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from time import time
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypedDict, TypeVar, cast

from ..cluster.attempt import DEFAULT
from ..cluster.dispatcher import Cluster, Dispatcher
from ..cluster.info import CallInfo
from ..errors import InvalidArgument, PegasusError, ProtocolError, StorageError, storage_error
from ..keys import MAX_HASH_KEY, Key, to_bytes
from ..options import HedgePolicy, check_hedge, check_rate
from ..protocol import fast
from ..protocol.binary import Buffer
from ..protocol.rpc import GET, Rpc
from ..results import V
from ..retry import RetryPolicy

if TYPE_CHECKING:
    from ..codecs import Codec

# Seconds from 1970 to 2016, the epoch of Pegasus.
EPOCH = 1451606400
MAX_EXPIRE = 2**31 - 1
_E = TypeVar("_E", bound=PegasusError)
_T = TypeVar("_T")
# Records of one hash key. Mapping is invariant in its key type, so each type is listed.
Records: TypeAlias = (
    "Mapping[bytes, _T] | Mapping[str, _T] | Mapping[bytes | str, _T] | Mapping[Key, _T] | Iterable[tuple[Key, _T]]"
)
# The type of a ``default`` argument.
D = TypeVar("D")


class CallOptions(TypedDict, total=False):
    """Keywords of the verbs that take ``info``, for the overloads that type checkers read."""

    timeout: float | None
    retry: RetryPolicy | None
    info: CallInfo | None


class ManyOptions(TypedDict, total=False):
    """Keywords of the verbs that send many requests."""

    concurrency: int
    timeout: float | None
    retry: RetryPolicy | None


def expire_ts(ttl: float | None, second: int | None = None) -> int:
    """Return the expiry of a TTL in seconds, rounded up, as sent to the server; None, 0 and inf: no expiry.

    Args:
        ttl: The TTL.
        second: The start of the TTL as Unix time in whole seconds; None: now.

    Raises:
        InvalidArgument: The TTL is negative, not a number, or ends after January 2084 (the expiry has 31 bits).
    """
    # math.inf is the TTL that reads return for a record without expiry.
    if ttl is None or ttl in (0, math.inf):
        return 0
    if not isinstance(ttl, (int, float)) or not ttl > 0:
        raise InvalidArgument(f"ttl must be 0 or more seconds (0, None or math.inf: no expiry), not {ttl!r}")
    at = (int(time()) if second is None else second) - EPOCH + math.ceil(ttl)
    if at > MAX_EXPIRE:
        raise InvalidArgument(
            f"ttl={ttl} ends {at - MAX_EXPIRE} s after the latest expiry that servers can store (in 2084)"
        )
    return at


def key_pair(hash_key: Key, sort_key: Key) -> tuple[bytes, bytes]:
    """Return both keys as bytes. The hash key may be empty.

    Raises:
        InvalidArgument: A key has a wrong type, or the hash key has 65,535 bytes or more.
    """
    if type(hash_key) is not bytes:
        hash_key = to_bytes(hash_key, "hash_key")
    if type(sort_key) is not bytes:
        sort_key = to_bytes(sort_key, "sort_key")
    if len(hash_key) > MAX_HASH_KEY:
        raise InvalidArgument(f"hash_key has {len(hash_key)} bytes; the limit is {MAX_HASH_KEY}")
    return hash_key, sort_key


def listed(items: object, name: str) -> Iterable[Any]:
    """Return the items. A str or bytes object is refused, because its characters could pass as items.

    Raises:
        InvalidArgument: The items are a str or bytes, or not iterable.
    """
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise InvalidArgument(f"{name} must be an iterable of items (a list, for example), not {items!r}")
    return items


def parts_of(item: Any, names: str, optional: str = "") -> tuple[Any, ...]:
    """Return the parts of one item of a bulk operation. A str or bytes object is refused, as in ``listed``.

    Args:
        item: The item.
        names: The names of its parts.
        optional: The name of a last part that the item may have; it is None if the item lacks it.

    Raises:
        InvalidArgument: The item does not have one part for each name.
    """
    parts = () if isinstance(item, (str, bytes)) or not isinstance(item, Iterable) else tuple(item)
    number = names.count(",") + 1
    if optional and len(parts) == number:
        return (*parts, None)
    if len(parts) != number + bool(optional):
        more = f" or ({names}, {optional})" if optional else ""
        raise InvalidArgument(f"each item must be ({names}){more}, not {item!r}")
    return parts


def only_hash_key(hash_key: Key) -> bytes:
    """Return the hash key as bytes, for operations that refuse an empty one.

    Raises:
        InvalidArgument: The hash key is empty, too long, or has a wrong type.
    """
    raw = to_bytes(hash_key, "hash_key")
    if not raw:
        raise InvalidArgument(
            "hash_key must not be empty in this verb; get, set, remove, ttl, exist and incr accept an empty one"
        )
    if len(raw) > MAX_HASH_KEY:
        raise InvalidArgument(f"hash_key has {len(raw)} bytes; the limit is {MAX_HASH_KEY}")
    return raw


class TableBase(Generic[V]):
    """Name, codec and dispatcher of a table, for all groups of verbs. This class does not know the client."""

    __slots__ = ("name", "codec", "_home", "_call", "_lane", "_max_argument")

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        codec: Codec[V] | None = None,
        hedge: HedgePolicy | None = DEFAULT,
        max_rate: float | None = None,
    ) -> None:
        """Store the arguments; no I/O."""
        self.name = name
        self.codec = codec
        self._home: Dispatcher = cluster.table(name)
        if hedge is not DEFAULT or max_rate is not None:
            options = cluster.options
            check_rate(max_rate)
            if hedge is DEFAULT:
                hedge = options.hedge
            check_hedge(hedge, options.header_version)
            self._home = self._home.variant(hedge, max_rate)
        self._call = self._home.call
        self._lane = self._home.lane
        limit = cluster.options.max_write_bytes
        self._max_argument = math.inf if limit is None else limit

    @property
    def _dispatcher(self) -> Dispatcher:
        """The dispatcher for calls of the calling thread."""
        return self._home.here()

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise TypeError("a table handle cannot be pickled or copied: open a client in each process")

    def _value(self, value: object) -> bytes:
        if self.codec is not None:
            # The overloads of the verbs declare the type. At run time the codec refuses a wrong one.
            return bytes(self.codec.encode(cast("V", value)))
        return value if type(value) is bytes else to_bytes(value, "value")

    def _plain(self, raw: bytes) -> V:
        # Without a codec V is bytes.
        return cast("V", raw) if self.codec is None else self.codec.decode(raw)

    def _write(
        self,
        rpc: Rpc,
        partition_hash: int,
        argument: bytes,
        timeout: float | None,
        retry: RetryPolicy | None,
        info: CallInfo | None,
    ) -> Buffer:
        """Check that the request fits into ``max_write_bytes``, then send it and return the reply."""
        if rpc.body_base + len(argument) > self._max_argument:
            self._check_size(rpc, argument)
        return self._call(rpc, partition_hash, argument, timeout, retry, info)

    def _check_size(self, rpc: Rpc, argument: bytes) -> None:
        if rpc.body_base + len(argument) > self._max_argument:
            raise InvalidArgument(
                f"{rpc.label}: keys and value make a request body of {rpc.body_base + len(argument)} bytes;"
                f" max_write_bytes is {self._max_argument}",
                code="ERR_INVALID_DATA",  # the server would answer the same code
            )

    def _done(self, rpc: Rpc, frame: Buffer, info: CallInfo | None = None) -> None:
        """Raise an error unless the status of an update is OK."""
        if info is not None:
            self._decode(rpc, frame, info)
        try:
            status = fast.read_status(rpc, frame)
        except ProtocolError as error:
            raise self._unreadable(error, rpc) from None
        if status:
            raise self._storage_error(rpc, status, frame)

    def _value_or(self, default: D, frame: Buffer) -> V | D:
        """Return the decoded value from the reply to a get, or the default if the record is absent."""
        try:
            status, value = fast.read_value(frame)
        except ProtocolError as error:
            raise self._unreadable(error, GET) from None
        if status == 1:
            return default
        if status:
            raise self._storage_error(GET, status, frame)
        return self._plain(value)

    def _unreadable(self, error: ProtocolError, rpc: Rpc) -> ProtocolError:
        """Complete the error about an unreadable body. After a write the outcome is unknown."""
        self._complete(error, rpc)
        error.sent = True
        error.outcome_unknown = rpc.is_write
        return error

    def _decode(self, rpc: Rpc, frame: Buffer, info: CallInfo | None = None) -> Any:
        """Return the result struct. If it cannot be read after a write, the error says that the outcome is unknown."""
        try:
            response: Any = fast.decode(rpc, frame)
        except ProtocolError as error:
            raise self._unreadable(error, rpc) from None
        if info is not None:
            info.app_id, info.partition, info.server = response.app_id, response.partition_index, response.server
            info.decree = getattr(response, "decree", -1)
        return response

    def _complete(self, error: _E, rpc: Rpc) -> _E:
        error.table = self.name
        error.operation = rpc.label
        return error

    def _storage_error(self, rpc: Rpc, status: int, frame: Buffer) -> StorageError:
        return self._answered(storage_error(status), rpc, frame)

    def _answered(self, error: _E, rpc: Rpc, frame: Buffer) -> _E:
        """Complete the error of a reply body. The body names the server."""
        self._complete(error, rpc)
        error.address = fast.decode(rpc, frame).server or None
        return error


__all__ = ["DEFAULT", "CallInfo", "TableBase", "expire_ts", "key_pair", "listed", "only_hash_key", "parts_of"]
