"""batch_get reads any records of a table with one or two requests for each partition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from ..bulk import Bulk, Request
from ..cluster.routing import RoutingTable
from ..errors import CodecError, InvalidArgument, PegasusError, ProtocolError, raise_first, without_traceback
from ..keys import Key, crc64
from ..protocol import fast
from ..protocol.batches import batch_get_argument, read_batch
from ..protocol.binary import Buffer
from ..protocol.codes import ERR_HANDLER_NOT_FOUND
from ..protocol.rpc import BATCH_GET, GET
from ..results import V
from ..retry import RetryPolicy
from ..transport import fork
from .asynchronous import later
from .base import DEFAULT, D, TableBase, key_pair, listed, parts_of
from .series import Series

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Maximum number of requests in flight. Normally there are as many requests as partitions, or twice as many.
WIDTH = 256
BATCH_SIZE = 256

Pair = tuple[bytes, bytes]


def _apart(partition_hash: int, index: int) -> int:
    """Return the largest power of two that divides the difference; 2**64 if there is no difference."""
    difference = partition_hash - index
    return difference & -difference or 1 << 64


def group(hashes: dict[Pair, int], pairs: Iterable[Pair], count: int, size: int) -> list[list[Pair]]:
    """Return the pairs in groups of at most ``size``; each group is one request with the hash of its first key.

    All keys of a group belong to one partition, also after a split into 2 x count partitions. Later splits can separate
    them. The first key is one that the first of these splits moves away. So a server that accepts its hash has all keys
    of the group, after any number of splits that the client does not know.
    """
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(hashes[pair] % (2 * count), []).append(pair)
    for rest, found in groups.items():
        found.sort(key=lambda pair: _apart(hashes[pair], rest))
    return [found[begin : begin + size] for found in groups.values() for begin in range(0, len(found), size)]


def modulus_of(accepted: int, index: int, count: int) -> int:
    """Return a multiple of the partition count with which a server answered a request.

    A key with ``hash % modulus == index`` certainly belonged to the partition that answered.

    Args:
        accepted: The hash in the request. ``accepted % its count == index`` is true, because the server accepted it.
        index: The partition that answered.
        count: A partition count of this table. Splits double it, so all its counts have the same odd factor.
    """
    return _apart(accepted, index) * (count // (count & -count))


class BatchOptions(TypedDict, total=False):
    """More keywords of batch_get, for the overloads that type checkers read."""

    batch_size: int
    timeout: float | None
    retry: RetryPolicy | None


class BatchOperations(TableBase[V]):
    """Reads of many records at once."""

    __slots__ = ()

    @overload
    def batch_get(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[BatchOptions],
    ) -> list[V | None]: ...

    # As for get: the default of a Table[Any] can be an empty list or dict.
    @overload
    def batch_get(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: V,
        return_errors: Literal[False] = False,
        **options: Unpack[BatchOptions],
    ) -> list[V]: ...

    @overload
    def batch_get(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: D,
        return_errors: Literal[False] = False,
        **options: Unpack[BatchOptions],
    ) -> list[V | D]: ...

    @overload
    def batch_get(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: None = None,
        return_errors: bool,
        **options: Unpack[BatchOptions],
    ) -> list[V | PegasusError | None]: ...

    @overload
    def batch_get(
        self, keys: Iterable[tuple[Key, Key]], *, default: V, return_errors: bool, **options: Unpack[BatchOptions]
    ) -> list[V | PegasusError]: ...

    @overload
    def batch_get(
        self, keys: Iterable[tuple[Key, Key]], *, default: D, return_errors: bool, **options: Unpack[BatchOptions]
    ) -> list[V | D | PegasusError]: ...

    def batch_get(
        self,
        keys: Iterable[tuple[Key, Key]],
        *,
        default: object = None,
        batch_size: int = BATCH_SIZE,
        return_errors: bool = False,
        timeout: float | None = None,
        retry: RetryPolicy | None = DEFAULT,
    ) -> list[Any]:
        """Return the values of any records with few requests, up to 256 of them in flight at the same time.

        The client sends up to two requests to each partition, because a later split must not separate the keys of one
        request. It sends more if a partition has more than ``batch_size`` keys. A batch costs the servers less than
        single gets; for the client, ``get_many`` is as fast. Servers before 2.4 do not support batch_get, so the client
        sends them one request for each record. The values can be from different moments.

        Args:
            keys: (hash key, sort key) of each record. A key may occur more than once.
            default: Result for a record that is absent or expired.
            batch_size: Maximum number of records in one request, by default 256. All their values come in one reply,
                which can have at most ``max_frame`` bytes (64 MiB by default).
            return_errors: Put errors into the results in place of values. If a request fails, each of its records gets
                an error. A value that the codec cannot decode is an error, too. False: the first error in the order of
                keys is raised, with the whole list in its attribute ``results``.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of the requests, by default the client's; None: no retry.

        Returns:
            Values, in the order of keys.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            PegasusError: The first error in the order of keys, unless return_errors is set.

        Retries: safe. If the table splits meanwhile, the client groups the keys again and repeats the requests.
        Greenlets: any number may call at once. The requests need no greenlets. A killed caller abandons its requests in
            flight.

        Example:
            >>> table.set("user:1", "name", "Ada"), table.set("user:2", "name", "Grace")
            (None, None)
            >>> table.batch_get([("user:2", "name"), ("user:1", "name"), ("nobody", "name")])
            [b'Grace', b'Ada', None]
        """
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise InvalidArgument(f"batch_size must be a whole number above 0, not {batch_size!r}")
        pairs = self._pairs(keys)
        hashes = {(hash_key, sort_key): crc64(hash_key or sort_key) for hash_key, sort_key in pairs}
        series = Series(self, BATCH_GET.label, timeout)
        found: dict[Pair, bytes | PegasusError] = {}
        pending = list(hashes)
        in_vain = 0
        # Also after an error: its attribute results must not show a record as absent that was not read.
        while pending:
            try:
                if in_vain:
                    self._await_routes(in_vain, series, retry)
                groups = group(hashes, pending, self._routes(series.deadline).count, batch_size)
                answers = self._ask(groups, hashes, series, retry)
                # Read again: if the table was made anew meanwhile, the requests were repeated with its new count.
                count = self._routes(series.deadline).count
            except PegasusError as error:
                series.complete(error)
                found.update((pair, copy.copy(error)) for pair in pending)
                break
            before, pending = len(pending), []
            for members, answer in zip(groups, answers):
                if isinstance(answer, PegasusError):
                    series.complete(answer)
                    # Each record gets its own instance.
                    found.update((pair, copy.copy(answer)) for pair in members)
                    continue
                rows, index = answer
                modulus = modulus_of(hashes[members[0]], index, count) if index is not None else 1
                for pair in members:
                    if index is not None and hashes[pair] % modulus != index:
                        # The wrong partition may have answered: a miss has no meaning, and a hit may be outdated.
                        pending.append(pair)
                    elif pair in rows:
                        found[pair] = rows[pair]
            in_vain = in_vain + 1 if len(pending) == before else 0
        return self._in_order(pairs, found, default, return_errors=return_errors)

    batch_get_async = later(
        '>>> table.set("user:1", "name", "Ada")',
        '>>> table.batch_get_async([("user:1", "name"), ("nobody", "name")]).get()',
        "[b'Ada', None]",
    )(batch_get)

    def _in_order(
        self, pairs: list[Pair], found: dict[Pair, bytes | PegasusError], default: object, *, return_errors: bool
    ) -> list[Any]:
        """Return values, defaults and errors in the order of the keys, or raise the first error."""
        plain: dict[Pair, object] = {}
        failed = False
        for pair, value in found.items():
            try:
                plain[pair] = value if isinstance(value, PegasusError) else self._plain(value)
            except CodecError as error:
                plain[pair] = self._complete(error, BATCH_GET)
            failed = failed or isinstance(plain[pair], PegasusError)
        results = [plain.get(pair, default) for pair in pairs]
        if failed and not return_errors:
            raise_first(results)
        return results

    @staticmethod
    def _pairs(keys: Iterable[tuple[Key, Key]]) -> list[Pair]:
        return [key_pair(*parts_of(pair, "hash key, sort key")) for pair in listed(keys, "keys")]

    def _routes(self, deadline: float) -> RoutingTable:
        self._dispatcher.cluster.bind()
        table = self._dispatcher.routes.get(deadline)
        if isinstance(table, PegasusError):
            raise self._complete(table, BATCH_GET)
        return table

    def _await_routes(self, number: int, series: Series, retry: RetryPolicy | None) -> None:
        """Wait for newer routes, at most for the length of the pause before a retry.

        Args:
            number: How many times in a row only wrong partitions have answered.
            series: The deadline of the call.
            retry: The retry policy of the call. Without one, the pauses are the default ones.
        """
        mine, dispatcher = fork.generation(), self._dispatcher
        policy = dispatcher.cluster.options.retry if retry is DEFAULT else retry
        dispatcher.routes.request()
        dispatcher.routes.wait_for_news(min((policy or RetryPolicy()).delay(number), series.left()))
        fork.check(mine)

    def _ask(
        self, groups: list[list[Pair]], hashes: dict[Pair, int], series: Series, retry: RetryPolicy | None
    ) -> list[tuple[dict[Pair, bytes], int | None] | PegasusError]:
        """Return for each group its error, or its rows and the partition that answered (None: any partition)."""
        requests = [(BATCH_GET, hashes[members[0]], batch_get_argument(members)) for members in groups]

        def finish(_index: int, frame: Buffer) -> tuple[dict[Pair, bytes], int]:
            try:
                status, rows, index = read_batch(frame)
            except ProtocolError as error:
                raise self._unreadable(error, BATCH_GET) from None
            if status:
                raise self._storage_error(BATCH_GET, status, frame)
            return rows, index

        answers = self._run_bounded(requests, finish, series, retry)
        for index, answer in enumerate(answers):
            if isinstance(answer, PegasusError) and answer.code == ERR_HANDLER_NOT_FOUND:
                try:
                    answers[index] = self._one_by_one(groups[index], hashes, series, retry), None
                except PegasusError as error:
                    answers[index] = without_traceback(error)
        return answers

    def _run_bounded(
        self, requests: list[Request], finish: Callable[[int, Buffer], Any], series: Series, retry: RetryPolicy | None
    ) -> list[Any]:
        """Send the requests and return a result or an error for each."""
        left = series.left()
        # Bulk starts the timeout of a request when it is sent first; the scope ends all of them at the same time.
        with self._dispatcher.cluster.scope(left):
            return Bulk(self._dispatcher, requests, finish, left, retry, WIDTH).run()

    def _one_by_one(
        self, pairs: list[Pair], hashes: dict[Pair, int], series: Series, retry: RetryPolicy | None
    ) -> dict[Pair, bytes]:
        """Read the rows one by one from a server that does not support batch_get."""
        requests = [(GET, hashes[pair], fast.key_argument(*pair)) for pair in pairs]

        def finish(_index: int, frame: Buffer) -> bytes | None:
            response = self._decode(GET, frame)
            if response.error not in (0, 1):
                raise self._storage_error(GET, response.error, frame)
            return response.value if response.error == 0 else None

        answers = self._run_bounded(requests, finish, series, retry)
        for answer in answers:
            if isinstance(answer, PegasusError):
                try:
                    raise answer
                finally:
                    del answer  # the traceback of the error holds this frame
        return {pair: value for pair, value in zip(pairs, answers) if value is not None}
