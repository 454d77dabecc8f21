"""The usual get and put without the compiled core, which has the same in C.

A usual call has the default options and no listener, its routes are known, and the connection is open. Everything else
goes through ``Dispatcher.call``. ``Dispatcher.rest_of_call`` continues a call whose first outcome is unusual.
"""

from __future__ import annotations

from contextvars import Context
from math import frexp
from time import monotonic
from typing import Any

from greenlet import getcurrent, greenlet

from ..keys import crc64
from ..protocol import fast
from ..protocol.rpc import GET, PUT, V1_HASH_FIELD, V1_START
from ..transport import fork

_page = fork.page
_switch: Any = greenlet.switch
# For each: the RPC, the function that packs a request up to the keys, the size of its body without keys and value, and
# the bytes before the sizes of the keys.
_GET = GET, fast.GET_HEAD, GET.body_base + 10, b"\x0c\0\1"
_PUT = PUT, fast.PUT_HEAD, PUT.body_base + 28, b"\x0c\0\1\x0c\0\1"


def call(  # noqa: PLR0915 - the path of nearly every call, inlined
    lane: Any, hash_key: bytes, sort_key: bytes, value: bytes | None = None, expire_ts: int = 0
) -> Any:
    """Make a get, or with a value a put.

    Args:
        lane: The facts of a table that ``Dispatcher`` keeps.
        hash_key: At most 65,534 bytes.
        sort_key: Of any size.
        value: The value of a put.
        expire_ts: The expiry of a put.

    Returns:
        The value of a get; None if a put was stored; a tuple with the frame of another reply, which must be decoded;
        NotImplemented if nothing was sent, because the call is not a usual one.

    Raises:
        PegasusError: The call failed.
    """
    dispatcher, cluster, routes, _, histogram, _, _, largest = lane
    way, table = cluster.way, routes.table
    if way is None or table is None or not _page[0]:
        return NotImplemented
    hub, scopes, seconds, milliseconds, repeats, started = way
    caller: Any = getcurrent()
    if scopes or started is not None or caller.parent is not hub:
        return NotImplemented
    hash_ = crc64(hash_key or sort_key)
    route = table.targets[hash_ % table.count]
    if (peer := route.peer) is None or (connection := peer.connection) is None:
        return NotImplemented
    pending = connection.pending
    if connection._crowded or len(pending) >= connection._max_in_flight or not connection._version:
        return NotImplemented
    size = len(hash_key)
    length = size + len(sort_key)
    rpc, pack, body, begin = _GET if value is None else _PUT
    body += length
    if value is not None:
        if length + 28 + len(value) > largest:
            return NotImplemented
        body += len(value)
    now = monotonic()
    deadline = now + seconds
    seqid, context = 0, Context()
    outcome: Any = None
    try:
        try:
            try:
                session = connection.session
                number = next(session.ids)
                if number > session.fresh:
                    number = session.free_id(number)
                frame = (
                    pack(
                        V1_START,
                        body,
                        route.header_part,
                        milliseconds,
                        V1_HASH_FIELD,
                        hash_,
                        rpc.v1_tail,
                        number,
                        begin,
                        2 + length,
                        size,
                    )
                    + hash_key
                    + sort_key
                )
                if value is None:
                    frame += b"\0"
                else:
                    middle = fast.VALUE_HEAD(b"\x0c\0\2", len(value))
                    frame = b"".join((frame, middle, value, fast.EXPIRY(b"\x08\0\3", expire_ts, b"\0\0")))
                pending[number] = (caller, deadline, route if repeats else None, context)
                seqid = number
                if connection._in_pass and deadline >= connection._wake_at and len(frame) <= connection._small:
                    # The usual case of the other branch.
                    out = connection._out
                    out[seqid] = frame
                    if not connection._in_pass or out is not connection._out:
                        connection._catch_up(out, seqid)
                else:
                    connection.begin(pending, seqid, deadline, frame)
                outcome = context.run(_switch, hub)
            except BaseException:
                connection.abandon(seqid, context)
                raise
        except BaseException:
            # Do this even if the clean-up itself is interrupted.
            connection.abandon(seqid, context)
            raise
        found = fast.usual_value(outcome) if value is None else None
        if found is not None:
            histogram[frexp(connection.heard - now)[1]] += 1
            return found
        if type(outcome) is bytes and len(outcome) > rpc.body_offset and outcome.startswith(rpc.ok_head, 4):
            histogram[frexp(connection.heard - now)[1]] += 1
            return None if value is not None and fast.is_usual_update(PUT, outcome) else (outcome,)
        frame = dispatcher.rest_of_call(
            rpc,
            hash_,
            hash_key,
            sort_key,
            value,
            expire_ts,
            now,
            deadline,
            outcome,
            route,
            connection,
            seqid,
            False,
        )
        return (frame,)
    finally:
        # See the end of Dispatcher.call.
        outcome = caller = None
