"""The verbs that check a record and write: check_and_set, check_and_mutate, compare_exchange, touch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload

from ..errors import CodecError, InvalidArgument, NotAnInteger, PegasusError
from ..keys import Key, crc64, to_bytes
from ..model import CheckType
from ..protocol import fast
from ..protocol.binary import Buffer
from ..protocol.rpc import CHECK_AND_MUTATE, CHECK_AND_SET, GET, Rpc
from ..protocol.rrdb import CheckAndMutateRequest, CheckAndSetRequest, Mutate
from ..results import CheckResult, V
from ..retry import RetryPolicy
from .asynchronous import later
from .base import DEFAULT, CallInfo, CallOptions, TableBase, expire_ts, only_hash_key
from .series import Series

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PUT, _DELETE = 0, 1
_NOT_PASSED = 13
_INVALID_ARGUMENT = 4


class _Mutation(NamedTuple):
    operation: int
    sort_key: bytes
    value: object
    ttl: float | None


class Mutations:
    """Puts and deletes under one hash key for ``check_and_mutate``. The server applies them in order, all or none.

    One object can be used in several calls. Each call encodes the values. TTLs count from the start of the call.

    Example:
        >>> Mutations().put("state", "done", ttl=60).delete("owner")
        <Mutations put b'state', delete b'owner'>
    """

    __slots__ = ("_all",)

    def __init__(self) -> None:
        """Start empty."""
        self._all: list[_Mutation] = []

    def __len__(self) -> int:
        """Return the number of mutations."""
        return len(self._all)

    def __iter__(self) -> Iterator[tuple[int, bytes, object, float | None]]:
        """Iterate over (0 for put or 1 for delete, sort key, value, TTL)."""
        return iter(self._all)

    def __repr__(self) -> str:
        """Show the operation and sort key of each mutation."""
        verbs = ", ".join(f"{'delete' if m.operation else 'put'} {m.sort_key!r}" for m in self._all)
        return f"<Mutations {verbs or 'none'}>"

    def put(self, sort_key: Key, value: object, *, ttl: float | None = None) -> Mutations:
        """Add a put and return self.

        Args:
            sort_key: May be empty.
            value: As for ``set``. The call encodes it with the table's codec.
            ttl: Seconds from the call until the record expires, rounded up; None, 0 or ``math.inf``: never, unless the
                table has a default TTL.

        Raises:
            InvalidArgument: The sort key has a wrong type, or the TTL is wrong.

        Example:
            >>> Mutations().put("state", "done", ttl=60)
            <Mutations put b'state'>
        """
        expire_ts(ttl)
        self._all.append(_Mutation(_PUT, to_bytes(sort_key, "sort_key"), value, ttl))
        return self

    def delete(self, sort_key: Key) -> Mutations:
        """Add a delete and return self. It is no error if there is no such record.

        Args:
            sort_key: May be empty.

        Raises:
            InvalidArgument: The sort key has a wrong type.

        Example:
            >>> Mutations().put("state", "done").delete("owner")
            <Mutations put b'state', delete b'owner'>
        """
        self._all.append(_Mutation(_DELETE, to_bytes(sort_key, "sort_key"), b"", None))
        return self


def _check_type(check: CheckType) -> CheckType:
    try:
        return CheckType(check)
    except ValueError:
        raise InvalidArgument(f"check must be a CheckType (0 to 17), not {check!r}") from None


def _operand(check: CheckType, operand: Key | int | None) -> bytes:
    """Return the bytes of the operand for the request.

    Raises:
        InvalidArgument: The operand is missing, is not allowed with this check, or has a wrong type.
    """
    if not check.takes_operand:
        if operand is not None:
            raise InvalidArgument(f"{check.name} takes no operand, but the call has {operand!r}")
        return b""
    if operand is None:
        raise InvalidArgument(f"{check.name} needs an operand")
    if isinstance(operand, int) and check.is_integer and not isinstance(operand, bool):
        if not -(2**63) <= operand < 2**63:
            raise InvalidArgument(f"operand must be a 64-bit integer, not {operand}")
        return b"%d" % operand
    if isinstance(operand, int):
        raise InvalidArgument(f"operand must be bytes or str for {check.name}, not {operand!r}")
    return to_bytes(operand, "operand")


class AtomicOperations(TableBase[V]):
    """Operations that check one record and write under the same hash key, in one atomic step."""

    __slots__ = ()

    @overload
    def check_and_set(
        self,
        hash_key: Key,
        check_sort_key: Key,
        check: CheckType,
        operand: Key | int | None = None,
        *,
        value: V,
        sort_key: Key | None = None,
        ttl: float | None = None,
        return_check_value: bool = False,
        **options: Unpack[CallOptions],
    ) -> CheckResult[V]: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def check_and_set(
        self: AtomicOperations[bytes],
        hash_key: Key,
        check_sort_key: Key,
        check: CheckType,
        operand: Key | int | None = None,
        *,
        value: Key,
        sort_key: Key | None = None,
        ttl: float | None = None,
        return_check_value: bool = False,
        **options: Unpack[CallOptions],
    ) -> CheckResult[bytes]: ...

    def check_and_set(
        self,
        hash_key: Key,
        check_sort_key: Key,
        check: CheckType,
        operand: Key | int | None = None,
        *,
        value: object,
        sort_key: Key | None = None,
        ttl: float | None = None,
        return_check_value: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> CheckResult[Any]:
        """Store a value if a record passes a check, in one atomic step.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            check_sort_key: The record that is checked.
            check: The check, see ``CheckType``.
            operand: The server compares it with the stored bytes, without the table's codec. Bytes or str, or an int
                for ``INT_*``; None for checks without an operand.
            value: The value to store if the check passes.
            sort_key: Sort key of the value; None: the checked record itself.
            ttl: Seconds until the value expires, rounded up; None, 0 or ``math.inf``: never, unless the table has a
                default TTL.
            return_check_value: Whether to return the value that the checked record had before the write.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Returns:
            A ``CheckResult``. It is true if the value was set. It has the checked value if ``return_check_value`` is
            set.

        Raises:
            NotAnInteger: With an ``INT_*`` check, the value or the operand is not a 64-bit integer (an empty value is
                not one). Nothing was changed. The error's ``result`` has the checked value if ``return_check_value`` is
                set.
            InvalidArgument: An argument has a wrong type or size, the hash key is empty, or the operand is missing or
                not allowed; nothing was sent.
            RequestTimeout, ConnectionLost: If ``outcome_unknown`` is set, the value may or may not have been set.
            PegasusError: Any other failure.

        Retries: the client does not repeat the call if its outcome is unknown. It repeats the call after the refusals
            Busy, Splitting, NotServing and NotEnoughReplicas: a server that refuses a call does not apply it.
        Greenlets: any number may call at once; the server applies one call at a time. After a kill the value may or
            may not have been set.

        Example:
            >>> table.remove("job:7", "owner")
            >>> bool(table.check_and_set("job:7", "owner", CheckType.NOT_EXIST, value="me"))
            True
            >>> table.check_and_set("job:7", "owner", CheckType.NOT_EXIST, value="you", return_check_value=True)
            CheckResult(was_set=False, check_value_exists=True, raw_check_value=b'me')
        """
        hash_key = only_hash_key(hash_key)
        check = _check_type(check)
        checked = to_bytes(check_sort_key, "check_sort_key")
        target = checked if sort_key is None else to_bytes(sort_key, "sort_key")
        differs = target != checked
        request = CheckAndSetRequest(
            hash_key=hash_key,
            check_sort_key=checked,
            check_type=int(check),
            check_operand=_operand(check, operand),
            set_diff_sort_key=differs,
            set_sort_key=target if differs else b"",
            set_value=self._value(value),
            set_expire_ts_seconds=expire_ts(ttl),
            return_check_value=bool(return_check_value),
        )
        argument = CHECK_AND_SET.encode_argument(request)
        frame = self._write(CHECK_AND_SET, crc64(hash_key), argument, timeout, retry, info)
        return self._checked(CHECK_AND_SET, frame, info)

    check_and_set_async = later(
        '>>> bool(table.check_and_set_async("job:7", "owner", CheckType.NOT_EXIST, value="me").get())',
        "True",
        writes=True,
    )(check_and_set)

    def check_and_mutate(
        self,
        hash_key: Key,
        check_sort_key: Key,
        check: CheckType,
        operand: Key | int | None = None,
        *,
        mutations: Mutations,
        return_check_value: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> CheckResult[V]:
        """Apply puts and deletes under one hash key if a record passes a check, in one atomic step.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            check_sort_key: The record that is checked.
            check: The check, see ``CheckType``. With ``NO_CHECK`` the call is an atomic batch.
            operand: As for ``check_and_set``.
            mutations: Puts and deletes in order, at least one. If several have the same sort key, the last one counts.
            return_check_value: Whether to return the value that the checked record had before the write.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Returns:
            A ``CheckResult``. It is true if the mutations were applied. It has the checked value if
            ``return_check_value`` is set.

        Raises:
            NotAnInteger: As for ``check_and_set``.
            InvalidArgument: An argument has a wrong type or size, the hash key is empty, or there are no mutations;
                nothing was sent.
            RequestTimeout, ConnectionLost: If ``outcome_unknown`` is set, the mutations may or may not have been
                applied.
            PegasusError: Any other failure.

        Retries: as for ``check_and_set``.
        Greenlets: as for ``check_and_set``.

        Example:
            >>> table.set("job:7", "state", "running")
            >>> finish = Mutations().put("state", "done").delete("owner")
            >>> bool(table.check_and_mutate("job:7", "state", CheckType.BYTES_EQUAL, "running", mutations=finish))
            True
            >>> table.get("job:7", "state"), table.get("job:7", "owner")
            (b'done', None)
        """
        hash_key = only_hash_key(hash_key)
        check = _check_type(check)
        if not isinstance(mutations, Mutations):
            raise InvalidArgument(f"mutations must be a Mutations object, not {type(mutations).__name__}")
        if not mutations:
            raise InvalidArgument("mutations must not be empty")
        request = CheckAndMutateRequest(
            hash_key=hash_key,
            check_sort_key=to_bytes(check_sort_key, "check_sort_key"),
            check_type=int(check),
            check_operand=_operand(check, operand),
            mutate_list=[
                Mutate(operation, sort_key, b"" if operation == _DELETE else self._value(value), expire_ts(ttl))
                for operation, sort_key, value, ttl in mutations
            ],
            return_check_value=bool(return_check_value),
        )
        argument = CHECK_AND_MUTATE.encode_argument(request)
        frame = self._write(CHECK_AND_MUTATE, crc64(hash_key), argument, timeout, retry, info)
        return self._checked(CHECK_AND_MUTATE, frame, info)

    check_and_mutate_async = later(
        '>>> finish = Mutations().put("state", "done").delete("owner")',
        '>>> bool(table.check_and_mutate_async("job:7", "state", CheckType.NO_CHECK, mutations=finish).get())',
        "True",
        writes=True,
    )(check_and_mutate)

    @overload
    def compare_exchange(
        self,
        hash_key: Key,
        sort_key: Key,
        expected: V | None,
        desired: V | None,
        *,
        ttl: float | None = None,
        **options: Unpack[CallOptions],
    ) -> CheckResult[V]: ...

    # Without a codec a str is stored as UTF-8.
    @overload
    def compare_exchange(
        self: AtomicOperations[bytes],
        hash_key: Key,
        sort_key: Key,
        expected: Key | None,
        desired: Key | None,
        *,
        ttl: float | None = None,
        **options: Unpack[CallOptions],
    ) -> CheckResult[bytes]: ...

    def compare_exchange(
        self,
        hash_key: Key,
        sort_key: Key,
        expected: object,
        desired: object,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> CheckResult[Any]:
        """Replace a value if it equals the expected value, in one atomic step.

        The values are compared after the table's codec has decoded them. So a stored value counts as equal even if its
        bytes differ from those of the encoded expected value. For example, the stored value can be uncompressed, or the
        keys of a JSON object can have another order. A second request then replaces the stored value, if its bytes have
        not changed meanwhile.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            sort_key: The record.
            expected: The value to be replaced; None: there must be no record.
            desired: The new value; None: the record is deleted.
            ttl: Seconds until the new value expires, rounded up; None, 0 or ``math.inf``: never, unless the table has a
                default TTL.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the call.

        Returns:
            A ``CheckResult``. It is true if the value was replaced. ``check_value`` is the old value.

        Raises:
            InvalidArgument: An argument has a wrong type or size, or the hash key is empty; nothing was sent.
            RequestTimeout, ConnectionLost: If ``outcome_unknown`` is set, the value may or may not have been replaced.
            PegasusError: Any other failure.

        Retries: as for ``check_and_set``.
        Greenlets: as for ``check_and_set``.

        Example:
            >>> table.set("job:7", "state", "new")
            >>> bool(table.compare_exchange("job:7", "state", "new", "running"))
            True
            >>> table.compare_exchange("job:7", "state", "new", "running").check_value
            b'running'
        """
        operand = None if expected is None else self._value(expected)
        with Series(self, "compare_exchange", timeout) as series:
            while True:
                check = CheckType.NOT_EXIST if operand is None else CheckType.BYTES_EQUAL
                if desired is None:
                    result = self.check_and_mutate(
                        hash_key,
                        sort_key,
                        check,
                        operand,
                        mutations=Mutations().delete(sort_key),
                        return_check_value=True,
                        timeout=series.left(),
                        retry=retry,
                        info=info,
                    )
                else:
                    result = self.check_and_set(
                        hash_key,
                        sort_key,
                        check,
                        operand,
                        value=cast("V", desired),
                        ttl=ttl,
                        return_check_value=True,
                        timeout=series.left(),
                        retry=retry,
                        info=info,
                    )
                if result or not self._equals(result, expected):
                    return result
                operand = result.raw_check_value

    compare_exchange_async = later(
        '>>> bool(table.compare_exchange_async("job:7", "state", None, "new").get())',
        "True",
        writes=True,
    )(compare_exchange)

    def _equals(self, result: CheckResult[V], expected: object) -> bool:
        """Tell whether the old value decodes to the expected value."""
        if self.codec is None or expected is None or not result.check_value_exists:
            return False
        try:
            return bool(result.check_value == self._plain(self._value(expected)))
        except CodecError:
            return False

    def touch(
        self,
        hash_key: Key,
        sort_key: Key,
        ttl: float | None,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
        info: CallInfo | None = None,
    ) -> bool:
        """Set another expiry on a record without changing its value.

        The server has no such operation. The client reads the value and writes it back with the new expiry. The write
        checks in the same atomic step that the value has not changed; if it has, the client starts again. So ``touch``
        never undoes a write of another client. The value is transferred four times: in the reply to the read, twice in
        the write, and in the reply to the write. So the value can have at most about half of ``max_write_bytes``.

        Args:
            hash_key: Not empty; at most 65,534 bytes.
            sort_key: The record.
            ttl: Seconds until the record expires, rounded up; None, 0 or ``math.inf``: never, unless the table has a
                default TTL.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of this call, by default the client's; None: no retry.
            info: A ``CallInfo`` that is filled with facts about the last request.

        Returns:
            True if the record has the new expiry, False if it is absent or expired.

        Raises:
            InvalidArgument: An argument has a wrong type or size, the hash key is empty, or the value is too large;
                nothing was changed.
            RequestTimeout, ConnectionLost: If ``outcome_unknown`` is set, the record has the new expiry or the old one.
            PegasusError: Any other failure.

        Retries: the client does not repeat the write if its outcome is unknown. It is safe to call ``touch`` again.
        Greenlets: any number may call at once. After a kill the record has the old expiry or the new one.

        Example:
            >>> table.set("user:7", "session", "x", ttl=10)
            >>> table.touch("user:7", "session", 3600), table.ttl("user:7", "session") > 3500
            (True, True)
        """
        hash_key = only_hash_key(hash_key)
        sort_key = to_bytes(sort_key, "sort_key")
        at = expire_ts(ttl)
        argument = fast.key_argument(hash_key, sort_key)
        with Series(self, "touch", timeout) as series:
            frame = self._call(GET, crc64(hash_key), argument, series.left(), retry, info)
            response = self._decode(GET, frame, info)
            if response.error not in (0, 1):
                raise self._storage_error(GET, response.error, frame)
            raw = response.value if response.error == 0 else None
            while raw is not None:
                request = CheckAndSetRequest(
                    hash_key=hash_key,
                    check_sort_key=sort_key,
                    check_type=int(CheckType.BYTES_EQUAL),
                    check_operand=raw,
                    set_value=raw,
                    set_expire_ts_seconds=at,
                    return_check_value=True,
                )
                argument = CHECK_AND_SET.encode_argument(request)
                frame = self._write(CHECK_AND_SET, crc64(hash_key), argument, series.left(), retry, info)
                result = self._checked(CHECK_AND_SET, frame, info)
                if result:
                    return True
                raw = result.raw_check_value
            return False

    touch_async = later(
        '>>> table.touch_async("nobody", "name", 60).get()',
        "False",
        writes=True,
    )(touch)

    def _checked(self, rpc: Rpc, frame: Buffer, info: CallInfo | None) -> CheckResult[V]:
        """Return the result from the reply to a check-and-* request."""
        response = self._decode(rpc, frame, info)
        exists: bool | None = None
        raw: bytes | None = None
        if response.check_value_returned:
            exists = response.check_value_exist
            raw = response.check_value if exists else None
        result = CheckResult(response.error == 0, exists, raw, self.codec)
        if response.error in (0, _NOT_PASSED):
            return result
        error: PegasusError = self._storage_error(rpc, response.error, frame)
        if response.error == _INVALID_ARGUMENT:
            # The client refuses all other causes of this status before it sends the request.
            text = "the value or the operand is not a 64-bit integer"
            error = self._answered(NotAnInteger(text, status=_INVALID_ARGUMENT, result=result), rpc, frame)
        try:
            raise error
        finally:
            del error  # the traceback of the error holds this frame
