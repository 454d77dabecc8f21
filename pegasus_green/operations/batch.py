"""batch_get: any records of a table, read by one or two requests for each partition."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from ..bulk import Bulk
from ..cluster.routing import RoutingTable
from ..errors import CodecError, InvalidArgument, PegasusError, ProtocolError, raise_first
from ..keys import Key, crc64
from ..protocol import fast
from ..protocol.batches import batch_get_argument, read_batch
from ..protocol.binary import Buffer
from ..protocol.codes import ERR_HANDLER_NOT_FOUND
from ..protocol.rpc import BATCH_GET, GET
from ..results import V
from ..retry import RetryPolicy
from .asynchronous import later
from .base import DEFAULT, D, TableBase, key_pair, listed, parts_of
from .series import Series

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Requests in flight at most. Their number is the partitions' in all but huge calls.
WIDTH = 256
BATCH_SIZE = 256

Pair = tuple[bytes, bytes]


def group(hashes: dict[Pair, int], pairs: Iterable[Pair], count: int, size: int) -> list[list[Pair]]:
    """Return the pairs in groups, of a size at most, that one request each can ask for.

    The keys of a group go to one partition, and still would after a split into 2 x count partitions: so the partition
    that answers for the key whose hash is sent answers for all of them, or refuses them all.
    """
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(hashes[pair] % (2 * count), []).append(pair)
    return [found[begin : begin + size] for found in groups.values() for begin in range(0, len(found), size)]


class BatchOptions(TypedDict, total=False):
    """What batch_get takes besides, for the overloads that checkers read."""

    batch_size: int
    timeout: float | None
    retry: RetryPolicy | None


class BatchOperations(TableBase[V]):
    """Reading many records at once."""

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
        """Return the values of any records, with few requests, all in flight together.

        The records of a partition make up to two requests (those that a split would part do not travel together), more
        where there are more than ``batch_size``. It costs servers less than as many gets; ``get_many`` is as good for
        the client. Servers before 2.4 do not know it and get one request for each record. The values are not of one
        moment.

        Args:
            keys: (hash key, sort key) of each record; the same one may come more than once.
            default: What to return for a record that is absent or expired.
            batch_size: Records that one request asks for at most: all their values come in one reply, which may have
                ``max_frame`` bytes (64 MiB by default).
            return_errors: Put an error into the results in place of a value. A request that fails gives each of its
                records an error, and so does a value that the codec cannot decode. Otherwise the first error, in order,
                is raised, with the whole list as its attribute ``results``.
            timeout: Seconds for the whole call; None: the client's default.
            retry: Retry policy of the requests; None never repeats.

        Returns:
            Values in the order of keys.

        Raises:
            InvalidArgument: A key has a wrong type or size; nothing was sent.
            RequestTimeout: No success in time.
            PegasusError: The first failure in the order of keys, unless return_errors.

        Retries: safe. When the table splits meanwhile, its records are grouped anew and asked for again.
        Greenlets: any number may call at once; spawns none for its requests. A killed caller gives up what is in
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
        failed = False
        while pending and (return_errors or not failed):
            try:
                groups = group(hashes, pending, self._routes(series.deadline).count, batch_size)
                answers = self._ask(groups, hashes, series, retry)
                table = self._routes(series.deadline)
            except PegasusError as error:
                found.update((pair, copy.copy(error)) for pair in pending)
                failed = True
                break
            pending = []
            for members, answer in zip(groups, answers):
                if isinstance(answer, PegasusError):
                    # To each record its own instance.
                    found.update((pair, copy.copy(answer)) for pair in members)
                    failed = True
                    continue
                rows, index = answer
                for pair in members:
                    if index is not None and table.target(hashes[pair]).index != index:
                        # Answered by a partition that is not its own: a miss means nothing, a hit may be out of date.
                        pending.append(pair)
                    elif pair in rows:
                        found[pair] = rows[pair]
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

    def _ask(
        self, groups: list[list[Pair]], hashes: dict[Pair, int], series: Series, retry: RetryPolicy | None
    ) -> list[tuple[dict[Pair, bytes], int | None] | PegasusError]:
        """Return for each group its error, or its rows and the partition that answered (None: it does not matter)."""
        requests = [(BATCH_GET, hashes[members[0]], batch_get_argument(members)) for members in groups]

        def finish(_index: int, frame: Buffer) -> tuple[dict[Pair, bytes], int]:
            try:
                status, rows, index = read_batch(frame)
            except ProtocolError as error:
                raise self._unreadable(error, BATCH_GET) from None
            if status:
                raise self._storage_error(BATCH_GET, status, frame)
            return rows, index

        answers = Bulk(self._dispatcher, requests, finish, series.left(), retry, WIDTH).run()
        for index, answer in enumerate(answers):
            if isinstance(answer, PegasusError) and answer.code == ERR_HANDLER_NOT_FOUND:
                try:
                    answers[index] = self._one_by_one(groups[index], hashes, series, retry), None
                except PegasusError as error:
                    answers[index] = error
        return answers

    def _one_by_one(
        self, pairs: list[Pair], hashes: dict[Pair, int], series: Series, retry: RetryPolicy | None
    ) -> dict[Pair, bytes]:
        """Return the rows from a server that does not know batch_get."""
        requests = [(GET, hashes[pair], fast.key_argument(*pair)) for pair in pairs]

        def finish(_index: int, frame: Buffer) -> bytes | None:
            response = self._decode(GET, frame)
            if response.error not in (0, 1):
                raise self._storage_error(GET, response.error, frame)
            return response.value if response.error == 0 else None

        answers = Bulk(self._dispatcher, requests, finish, series.left(), retry, WIDTH).run()
        for answer in answers:
            if isinstance(answer, PegasusError):
                try:
                    raise answer
                finally:
                    del answer  # its traceback holds this frame
        return {pair: value for pair, value in zip(pairs, answers) if value is not None}
