"""The verbs of one record: get, set, remove, exist, ttl, incr."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, overload

from ..accelerate import core
from ..cluster import usual
from ..errors import IntegerOverflow, InvalidArgument, NotAnInteger
from ..keys import Key, crc64, encode_key
from ..protocol import fast
from ..protocol.binary import Buffer
from ..protocol.rpc import GET, INCR, PUT, REMOVE, TTL
from ..protocol.rrdb import IncrRequest
from ..results import V
from ..retry import RetryPolicy
from .asynchronous import Handle, begin, later
from .base import DEFAULT, CallInfo, D, TableBase, expire_ts, key_pair

_get: Any = core.get if core else usual.call
_put: Any = core.put if core else usual.call


class SingleOperations(TableBase[V]):
    """Operations on one (hash key, sort key)."""

    __slots__ = ()

    @overload
    def get(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        default: None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> V | None: ...

    # As for dict.get. The default of a Table[Any] can be an empty list or dict, whose item type is unknown.
    @overload
    def get(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        default: V,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> V: ...

    @overload
    def get(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        default: D,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> V | D: ...

    def get(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        default: object = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> object:
        """Return the value of one record.

        Args:
            hash_key: Determines the partition; at most 65,534 bytes, may be empty.
            sort_key: Orders the records of the hash key; of any length, may be empty.
            default: Result if the record is absent or expired.
            timeout: Seconds for the whole call with its attempts; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Returns:
            The value as stored, in bytes or decoded by the table's codec. An empty value is ``b""``.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            RequestTimeout: No success in time.
            PegasusError: Any other failure, see ``pegasus_green.errors``.

        Retries: safe; repeated until the deadline.
        Greenlets: any number may call at once; a killed caller affects no other call.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> table.get("user:7", "name")
            b'Ada'
        """
        if type(hash_key) is not bytes or type(sort_key) is not bytes or len(hash_key) > 65534:
            hash_key, sort_key = key_pair(hash_key, sort_key)
        if self._lane and timeout is None and info is None and retry is DEFAULT:
            found = _get(self._lane, hash_key, sort_key)
            if type(found) is bytes:
                return found if self.codec is None else self._plain(found)
            if found is None:
                return default
            if type(found) is tuple:
                return self._value_or(default, found[0])
        frame = self._call(
            GET, crc64(hash_key or sort_key), fast.key_argument(hash_key, sort_key), timeout, retry, info
        )
        if info is not None:
            self._decode(GET, frame, info)
        value = fast.usual_value(frame)
        return value if type(value) is bytes and self.codec is None else self._value_or(default, frame)

    def _get_light(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        default: object = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> Handle[Any]:
        hash_key, sort_key = key_pair(hash_key, sort_key)

        def finish(frame: Buffer) -> object:
            if info is not None:
                self._decode(GET, frame, info)
            return self._value_or(default, frame)

        argument, hash_ = fast.key_argument(hash_key, sort_key), crc64(hash_key or sort_key)
        return begin(self._dispatcher, GET, hash_, argument, finish, timeout=timeout, retry=retry, info=info)

    get_async = later(
        '>>> table.set("user:1", "name", "Ada")',
        '>>> a, b = table.get_async("user:1", "name"), table.get_async("user:2", "name")',
        ">>> a.get(), b.get()",
        "(b'Ada', None)",
        light=_get_light,
    )(get)

    @overload
    def set(
        self,
        hash_key: Key,
        sort_key: Key,
        value: V,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> None: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def set(
        self: SingleOperations[bytes],
        hash_key: Key,
        sort_key: Key,
        value: Key,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> None: ...

    def set(
        self,
        hash_key: Key,
        sort_key: Key,
        value: object,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> None:
        """Store one value. It replaces the old value and its expiry.

        The call returns after the primary and all its current secondaries have logged the write.

        Args:
            hash_key: At most 65,534 bytes, may be empty.
            sort_key: May be empty.
            value: Bytes or str; a str is stored as UTF-8. With a codec: a value that the codec can encode. It may be
                empty. The request with keys and value has at most ``max_write_bytes`` (1 MiB by default).
            ttl: Seconds until the value expires, rounded up to whole seconds; None, 0 or ``math.inf``: never, unless
                the table has a default TTL.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Raises:
            InvalidArgument: A key or the value has a wrong type, or the request body is over ``max_write_bytes``;
                nothing was sent.
            RequestTimeout: No success in time; ``outcome_unknown`` tells whether the write may have been applied.
            PegasusError: Any other failure.

        Retries: safe; a second copy stores the same value with the same expiry. If another client writes the same key
            meanwhile, a delayed copy of this write can be applied after the other write; ``retry=None`` excludes this.
        Greenlets: any number may call at once. After a kill the write may or may not have been applied.

        Example:
            >>> table.set("user:7", "name", "Ada", ttl=60)
        """
        if type(hash_key) is not bytes or type(sort_key) is not bytes or len(hash_key) > 65534:
            hash_key, sort_key = key_pair(hash_key, sort_key)
        if type(value) is not bytes or self.codec is not None:
            value = self._value(value)
        expires = 0 if ttl is None else expire_ts(ttl)
        lane = self._lane
        if lane and timeout is None and info is None and retry is DEFAULT:
            done = _put(lane, hash_key, sort_key, value, expires)
            if type(done) is tuple:
                self._done(PUT, done[0])
            if done is not NotImplemented:
                return
        argument = fast.put_argument(hash_key, sort_key, value, expires)
        if len(argument) > self._max_argument - PUT.body_base:
            self._check_size(PUT, argument)
        frame = self._call(PUT, crc64(hash_key or sort_key), argument, timeout, retry, info)
        self._done(PUT, frame, info)

    def _set_light(
        self,
        hash_key: Key,
        sort_key: Key,
        value: object,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> Handle[None]:
        hash_key, sort_key = key_pair(hash_key, sort_key)
        argument = fast.put_argument(hash_key, sort_key, self._value(value), expire_ts(ttl))
        self._check_size(PUT, argument)
        hash_, finish = crc64(hash_key or sort_key), partial(self._done, PUT, info=info)
        return begin(self._dispatcher, PUT, hash_, argument, finish, timeout=timeout, retry=retry, info=info)

    set_async = later(
        '>>> table.set_async("user:1", "name", "Ada").get()',
        '>>> table.get("user:1", "name")',
        "b'Ada'",
        light=_set_light,
    )(set)  # noqa: A003 - the verb is meant, not the built-in

    def remove(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> None:
        """Remove one record. The server does not tell whether it existed.

        Args:
            hash_key: At most 65,534 bytes, may be empty.
            sort_key: May be empty.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            RequestTimeout: No success in time; ``outcome_unknown`` tells whether the removal may have been applied.
            PegasusError: Any other failure.

        Retries: safe. As with ``set``, a delayed copy can be applied after another client's write of the same key.
        Greenlets: any number may call at once. After a kill the removal may or may not have been applied.

        Example:
            >>> table.set("user:7", "name", "Ada")
            >>> table.remove("user:7", "name")
            >>> table.get("user:7", "name") is None
            True
        """
        hash_key, sort_key = key_pair(hash_key, sort_key)
        argument = fast.key_argument(hash_key, sort_key)
        frame = self._write(REMOVE, crc64(hash_key or sort_key), argument, timeout, retry, info)
        self._done(REMOVE, frame, info)

    def _remove_light(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> Handle[None]:
        hash_key, sort_key = key_pair(hash_key, sort_key)
        argument, hash_ = fast.key_argument(hash_key, sort_key), crc64(hash_key or sort_key)
        finish = partial(self._done, REMOVE, info=info)
        return begin(self._dispatcher, REMOVE, hash_, argument, finish, timeout=timeout, retry=retry, info=info)

    remove_async = later(
        '>>> table.set("user:1", "name", "Ada")',
        '>>> table.remove_async("user:1", "name").get()',
        '>>> table.exist("user:1", "name")',
        "False",
        light=_remove_light,
    )(remove)

    def ttl(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> int | float | None:
        """Return the remaining time to live of a record.

        Args:
            hash_key: At most 65,534 bytes, may be empty.
            sort_key: May be empty.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Returns:
            Whole seconds, at least 1; ``math.inf`` for a record without expiry; None if it is absent or expired.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            RequestTimeout: No success in time.
            PegasusError: Any other failure.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> table.set("user:7", "session", "x", ttl=60)
            >>> table.ttl("user:7", "session") in (59, 60)
            True
        """
        hash_key, sort_key = key_pair(hash_key, sort_key)
        argument = fast.key_argument(hash_key, sort_key)
        frame = self._call(TTL, crc64(hash_key or sort_key), argument, timeout, retry, info)
        response = self._decode(TTL, frame, info)
        if response.error == 0:
            # A negative stored expiry is unsigned for the server, so the record lives until after 2106. The remaining
            # time is then a negative 32-bit number. Only -1 means "no expiry".
            return math.inf if response.ttl_seconds == -1 else int(response.ttl_seconds & 0xFFFFFFFF)
        if response.error == 1:
            return None
        raise self._storage_error(TTL, response.error, frame)

    ttl_async = later(
        '>>> table.set("user:1", "name", "Ada")',
        '>>> table.ttl_async("user:1", "name").get()',
        "inf",
    )(ttl)

    def exist(
        self,
        hash_key: Key,
        sort_key: Key = b"",
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> bool:
        """Tell whether a record exists and has not expired. The server does not send its value.

        Args:
            hash_key: At most 65,534 bytes, may be empty.
            sort_key: May be empty.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            RequestTimeout: No success in time.
            PegasusError: Any other failure.

        Retries: safe.
        Greenlets: any number may call at once.

        Example:
            >>> table.exist("user:7", "no such key")
            False
        """
        return self.ttl(hash_key, sort_key, timeout=timeout, retry=retry, info=info) is not None

    exist_async = later(
        '>>> table.exist_async("nobody", "name").get()',
        "False",
    )(exist)

    def incr(
        self,
        hash_key: Key,
        sort_key: Key,
        increment: int = 1,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> int:
        """Add a number to the integer in a record, in one atomic step, and return the sum.

        An absent, expired or empty record counts as 0. The stored value must be the text of a signed 64-bit integer in
        the notation of C: ``12``, ``-3``, ``0x1F``; ``010`` is 8. The sum is stored as decimal text. The table's codec
        does not apply.

        Args:
            hash_key: At most 65,534 bytes, may be empty.
            sort_key: May be empty.
            increment: The number to add, a signed 64-bit integer. 0 returns the value and stores it as decimal text.
            ttl: None keeps the record's expiry. 0 and ``math.inf`` remove it. Any other number is the seconds until the
                record expires, rounded up. If the record has no expiry after this, it gets the table's default TTL.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Raises:
            NotAnInteger: The value is not an integer; nothing was changed.
            IntegerOverflow: The sum does not fit into 64 bits; nothing was changed. ``old_value`` is the stored value.
            InvalidArgument: An argument has a wrong type or size; nothing was sent.
            RequestTimeout, ConnectionLost: If ``outcome_unknown`` is set, the sum may or may not have been stored.
            PegasusError: Any other failure.

        Retries: the client does not repeat the call if its outcome is unknown. It repeats the call after the refusals
            Busy, Splitting, NotServing and NotEnoughReplicas: a server that refuses a call does not apply it.
        Greenlets: any number may call at once. After a kill the sum may or may not have been stored.

        Example:
            >>> table.set("page:1", "views", 41)
            Traceback (most recent call last):
            pegasus_green.errors.InvalidArgument: value must be bytes or str, not int
            >>> table.set("page:1", "views", "41")
            >>> table.incr("page:1", "views")
            42
        """
        hash_key, sort_key = key_pair(hash_key, sort_key)
        if not isinstance(increment, int) or isinstance(increment, bool) or not -(2**63) <= increment < 2**63:
            raise InvalidArgument(f"increment must be a 64-bit integer, not {increment!r}")
        # In the request, 0 keeps the expiry and a negative number clears it.
        expiry = 0 if ttl is None else expire_ts(ttl) or -1
        request = IncrRequest(encode_key(hash_key, sort_key), increment, expiry)
        frame = self._write(INCR, crc64(hash_key or sort_key), INCR.encode_argument(request), timeout, retry, info)
        response = self._decode(INCR, frame, info)
        if response.error == 0:
            return int(response.new_value)
        if response.error != 4:
            raise self._storage_error(INCR, response.error, frame)
        # After an overflow the server returns the stored value. It cannot be 0, because 0 plus any increment fits.
        error: NotAnInteger | IntegerOverflow = NotAnInteger("the value is not a 64-bit integer", status=4)
        if response.new_value:
            text = f"{response.new_value} + {increment} does not fit into 64 bits"
            error = IntegerOverflow(text, status=4, old_value=response.new_value)
        raise self._answered(error, INCR, frame)

    incr_async = later(
        '>>> table.incr_async("page:1", "views", 2).get()',
        "2",
        writes=True,
    )(incr)
