"""The usual get and put without the compiled core, which has the same in C.

A usual call has the default options and no listener, its routes are known, and the connection is open. Everything else
goes through ``Dispatcher.call``. ``Dispatcher.rest_of_call`` continues a call whose first outcome is unusual.
"""

from __future__ import annotations

import struct
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
# The sizes of requests without keys and value, and the constant bytes in them.
_GET_SIZE, _PUT_SIZE = GET.body_base + 10, PUT.body_base + 28
_GET_TAIL, _PUT_TAIL = GET.v1_tail, PUT.v1_tail
_get_head, _put_head, _value_head, _expiry = fast.GET_HEAD, fast.PUT_HEAD, fast.VALUE_HEAD, fast.EXPIRY
_get_reply, _usual_update = fast.GET_REPLY, fast.is_usual_update
_OK_GET, _OK_VALUE, _VALUE_AT, _known_endings = GET.ok_head, fast.OK_VALUE, fast.VALUE_AT, fast.known_endings


def call(  # noqa: C901, PLR0915 - the path of nearly every call, inlined
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
    hub, scopes, seconds, milliseconds, repeats, started, _ = way
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
    if value is not None and length + 28 + len(value) > largest:
        return NotImplemented
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
                if value is None:
                    head = _get_head(
                        V1_START,
                        _GET_SIZE + length,
                        route.header_part,
                        milliseconds,
                        V1_HASH_FIELD,
                        hash_,
                        _GET_TAIL,
                        number,
                        b"\x0c\0\1",
                        2 + length,
                        size,
                    )
                    frame = head + hash_key + sort_key + b"\0"
                else:
                    head = _put_head(
                        V1_START,
                        _PUT_SIZE + length + len(value),
                        route.header_part,
                        milliseconds,
                        V1_HASH_FIELD,
                        hash_,
                        _PUT_TAIL,
                        number,
                        b"\x0c\0\1\x0c\0\1",
                        2 + length,
                        size,
                    )
                    middle, tail = _value_head(b"\x0c\0\2", len(value)), _expiry(b"\x08\0\3", expire_ts, b"\0\0")
                    frame = b"".join((head, hash_key, sort_key, middle, value, tail))
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
        if type(outcome) is bytes:
            if value is None:
                try:
                    start, body, size = _get_reply(outcome, 4)
                except struct.error:
                    start = body = b""
                if body == _OK_VALUE and start == _OK_GET and outcome[_VALUE_AT + size :] in _known_endings:
                    histogram[frexp(connection.heard - now)[1]] += 1
                    return outcome[_VALUE_AT : _VALUE_AT + size]
            rpc = GET if value is None else PUT
            if outcome.startswith(rpc.ok_head, 4) and len(outcome) > rpc.body_offset:
                histogram[frexp(connection.heard - now)[1]] += 1
                return None if value is not None and _usual_update(PUT, outcome) else (outcome,)
        frame = dispatcher.rest_of_call(
            GET if value is None else PUT,
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
