"""What all verbs share: the handle on a table, its codec, and how arguments become bytes and seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from time import time
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypedDict, TypeVar, cast

from ..cluster.attempt import DEFAULT
from ..cluster.dispatcher import CallInfo, Cluster, Dispatcher
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

# Seconds between 1970 and 2016, where Pegasus begins to count.
EPOCH = 1451606400
MAX_EXPIRE = 2**31 - 1
_E = TypeVar("_E", bound=PegasusError)
_T = TypeVar("_T")
# Records of one hash key. A mapping is invariant in its keys, so each kind of key is named.
Records: TypeAlias = (
    "Mapping[bytes, _T] | Mapping[str, _T] | Mapping[bytes | str, _T] | Mapping[Key, _T] | Iterable[tuple[Key, _T]]"
)
# The type of a default.
D = TypeVar("D")


class CallOptions(TypedDict, total=False):
    """What every verb takes, for the overloads that checkers read."""

    timeout: float | None
    retry: RetryPolicy | None
    info: CallInfo | None


class ManyOptions(TypedDict, total=False):
    """What the verbs of many requests take."""

    concurrency: int
    timeout: float | None
    retry: RetryPolicy | None


def expire_ts(ttl: float | None) -> int:
    """Return the wire's expiry of a TTL in seconds, rounded up; None and 0 mean none.

    Raises:
        InvalidArgument: Negative, not a number, or beyond the 32 bits of the wire (the year 2084).
    """
    if ttl is None or ttl == 0:
        return 0
    if not isinstance(ttl, (int, float)) or not 0 < ttl < math.inf:
        raise InvalidArgument(f"ttl must be 0 or more seconds (0 or None: no expiry), not {ttl!r}")
    at = int(time()) - EPOCH + math.ceil(ttl)
    if at > MAX_EXPIRE:
        raise InvalidArgument(f"ttl={ttl} ends {at - MAX_EXPIRE} s after the last second of the wire's 32 bits (2084)")
    return at


def key_pair(hash_key: Key, sort_key: Key) -> tuple[bytes, bytes]:
    """Return both keys as bytes; the hash key may be empty.

    Raises:
        InvalidArgument: A wrong type, or a hash key of 65,535 bytes or more.
    """
    if type(hash_key) is not bytes:
        hash_key = to_bytes(hash_key, "hash_key")
    if type(sort_key) is not bytes:
        sort_key = to_bytes(sort_key, "sort_key")
    if len(hash_key) > MAX_HASH_KEY:
        raise InvalidArgument(f"hash_key has {len(hash_key)} bytes; the limit is {MAX_HASH_KEY}")
    return hash_key, sort_key


def listed(items: object, name: str) -> Iterable[Any]:
    """Return the items; text is refused, whose letters could pass as items.

    Raises:
        InvalidArgument: They are text, or not iterable.
    """
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise InvalidArgument(f"{name} must be an iterable, not {items!r}")
    return items


def parts_of(item: Any, names: str) -> tuple[Any, ...]:
    """Return the parts of one item of a bulk operation; text is refused, whose letters could pass as parts.

    Raises:
        InvalidArgument: It has another number of parts than there are names.
    """
    parts = () if isinstance(item, (str, bytes)) or not isinstance(item, Iterable) else tuple(item)
    if len(parts) != names.count(",") + 1:
        raise InvalidArgument(f"each item must be ({names}), not {item!r}")
    return parts


def only_hash_key(hash_key: Key) -> bytes:
    """Return the hash key as bytes, for operations that refuse an empty one.

    Raises:
        InvalidArgument: Empty, too long, or of a wrong type.
    """
    raw = to_bytes(hash_key, "hash_key")
    if not raw:
        raise InvalidArgument("hash_key must not be empty here: only get, set, remove, ttl, exist and incr allow that")
    if len(raw) > MAX_HASH_KEY:
        raise InvalidArgument(f"hash_key has {len(raw)} bytes; the limit is {MAX_HASH_KEY}")
    return raw


class TableBase(Generic[V]):
    """What the groups of verbs share: a table's name, codec and dispatcher. It does not know the client."""

    __slots__ = ("name", "codec", "_home", "_call", "_lane", "_max_argument")

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        codec: Codec[V] | None = None,
        hedge: HedgePolicy | None = DEFAULT,
        max_rate: float | None = None,
    ) -> None:
        """Remember the table; no I/O."""
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
        """What sends the calls of the calling thread."""
        return self._home.here()

    def __reduce__(self) -> NoReturn:
        """Refuse pickling."""
        raise TypeError("a table handle cannot be pickled or copied: open a client in each process")

    def _value(self, value: object) -> bytes:
        if self.codec is not None:
            # The overloads of the verbs see to the type; the codec refuses the rest at run time.
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
        """Call a write after checking that the server would take its size."""
        if rpc.body_base + len(argument) > self._max_argument:
            self._check_size(rpc, argument)
        return self._call(rpc, partition_hash, argument, timeout, retry, info)

    def _check_size(self, rpc: Rpc, argument: bytes) -> None:
        if rpc.body_base + len(argument) > self._max_argument:
            raise InvalidArgument(
                f"{rpc.label}: keys and value make a request body of {rpc.body_base + len(argument)} bytes;"
                f" max_write_bytes is {self._max_argument}",
                code="ERR_INVALID_DATA",  # what the server answers to it
            )

    def _done(self, rpc: Rpc, frame: Buffer, info: CallInfo | None = None) -> None:
        """Raise unless the status of an update is OK."""
        if info is not None:
            self._decode(rpc, frame, info)
        try:
            status = fast.read_status(rpc, frame)
        except ProtocolError as error:
            raise self._unreadable(error, rpc) from None
        if status:
            raise self._storage_error(rpc, status, frame)

    def _value_or(self, default: D, frame: Buffer) -> V | D:
        """Return what a reply to get says: the value as the codec decodes it, or the default when it is absent."""
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
        """Complete the error for a body that cannot be read: after a write its outcome is unknown."""
        self._complete(error, rpc)
        error.sent = True
        error.outcome_unknown = rpc.is_write
        return error

    def _decode(self, rpc: Rpc, frame: Buffer, info: CallInfo | None = None) -> Any:
        """Return the result struct; unreadable after a write means that its outcome is unknown."""
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
        """Complete the error that a body stands for; the body names the server."""
        self._complete(error, rpc)
        error.address = fast.decode(rpc, frame).server or None
        return error


__all__ = ["DEFAULT", "CallInfo", "TableBase", "expire_ts", "key_pair", "listed", "only_hash_key", "parts_of"]
