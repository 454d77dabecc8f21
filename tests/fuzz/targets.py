"""The functions that fuzzers call: the reply decoder of the client and the request decoder of the server.

Each target takes any bytes and must come back; ``ProtocolError`` is the only error that the code under test may raise.
What it accepts has to be consistent: cut in other places it gives the same frames, and what was decoded encodes to
bytes that decode to the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pegasus_green import keys
from pegasus_green.errors import ProtocolError
from pegasus_green.onebox.wire.frames import Cutter
from pegasus_green.protocol import batches, fast, rows, rpc
from pegasus_green.protocol.framing import parse_reply, parse_request
from pegasus_green.protocol.message import Message
from pegasus_green.protocol.session import ServerSession
from tests.fuzz.streams import Piecewise, pieces

# The request decoder needs a reply function, which is not called here.
NOBODY: Any = None
RESPONSES = sorted({row.response for row in rpc.BY_NAME.values() if row.response}, key=lambda cls: cls.__name__)


def same_again(message: Message) -> None:
    """Check that a decoded message survives the codec."""
    raw = message.encode()
    assert type(message).decode(raw) == (message, len(raw))
    assert type(message).decode_reply(raw) == message


def reply(data: bytes) -> int:
    """Feed a stream of replies; return how many bodies could be decoded."""
    whole, cut = Piecewise(), Piecewise()
    failures = 0
    for session, parts in ((whole, [data]), (cut, pieces(data))):
        try:
            for part in parts:
                session.feed(part)
            if session.session.broken is not None:
                raise session.session.broken
        except ProtocolError:
            failures += 1
    assert failures in (0, 2)
    assert cut.frames == whole.frames
    return sum(map(_reply_frame, (frame for _, frame in cut.frames)))


def _reply_frame(frame: bytes) -> int:
    envelope = attempt(parse_reply, frame)
    if envelope is None or envelope.offset is None:
        return 0
    row = rpc.BY_NAME.get(envelope.name.removesuffix("_ACK"))
    classes = [row.response] if row and row.response else RESPONSES
    decoded = [attempt(cls.decode_reply, frame, envelope.offset) for cls in classes]
    if row and row.response and frame.startswith(row.ok_head, 4):
        _quick(row, frame, decoded[0])
    for message in filter(None, decoded):
        same_again(message)
    return sum(message is not None for message in decoded)


def _quick(row: rpc.Rpc, frame: bytes, general: Any) -> None:
    """Check that the fast decoders agree with the general one, if that can read the body."""
    readable = general is not None
    if row is rpc.GET:
        found = attempt(fast.read_value, frame)
        assert not readable or found == (general.error, general.value)
    elif row in (rpc.PUT, rpc.REMOVE, rpc.MULTI_PUT):
        status = attempt(fast.read_status, row, frame)
        assert not readable or status == general.error
    elif row is rpc.BATCH_GET:
        batch = attempt(batches.read_batch, frame)
        if readable:
            values = {(one.hash_key, one.sort_key): one.value for one in general.data}
            assert batch == (general.error, values, general.partition_index)
    elif row in (rpc.MULTI_GET, rpc.GET_SCANNER, rpc.SCAN):
        _quick_rows(row, frame, general)


def _quick_rows(row: rpc.Rpc, frame: bytes, general: Any) -> None:
    whole = attempt(rows.read_full_rows, row, frame, with_expiry=True)
    found = attempt(rows.read_rows, row, frame, with_expiry=True)
    attempt(rows.read_rows, row, frame, 3)
    attempt(rows.read_full_rows, row, frame)
    if general is None:
        return
    expected = [(one.key, one.value, one.expire_ts_seconds or 0) for one in general.kvs]
    assert found is not None
    assert (found.status, found.rows) == (general.error, expected)
    assert found.context_id == getattr(general, "context_id", 0)
    if whole is not None:
        assert [(keys.encode_key(*one[:2]), *one[2:]) for one in whole.rows] == expected


def request(data: bytes) -> int:
    """Feed a stream of requests to both of the server's decoders; return how many arguments could be decoded."""
    cutter = Cutter(NOBODY)
    calls, error = cutter.feed(data)
    pieced, piece_error = [], None
    other = Cutter(NOBODY)
    for part in pieces(data):
        found, piece_error = other.feed(part)
        pieced += found
        if piece_error:
            break
    assert (piece_error is None) == (error is None)
    assert [call.frame for call in pieced] == [call.frame for call in calls]
    general = attempt(ServerSession().feed, data)
    assert (general is None) == (error is not None)
    if general is not None:
        assert [one.data for one in general] == [call.frame for call in calls]
    readable = 0
    for call in calls:
        one = parse_request(call.frame)
        assert (one.name, one.seqid, one.offset, one.backup) == (call.name, call.seqid, call.offset, call.backup)
        assert (one.app_id, one.partition_index, one.timeout_ms) == (call.app_id, call.index, call.timeout_ms)
        assert (one.partition_hash, one.thread_hash) == (call.partition_hash, call.thread_hash)
        readable += call.rpc is not None and _argument(call.rpc, call.frame, call.offset)
    return readable


def _argument(row: rpc.Rpc, frame: bytes, offset: int) -> bool:
    try:
        value = row.decode_argument(frame, offset)
    except ProtocolError:
        return False
    assert row.decode_argument(row.encode_argument(value)) == value
    if isinstance(value, Message):
        same_again(value)
    return True


def attempt(act: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what act gives, None when it raises a protocol error."""
    try:
        return act(*args, **options)
    except ProtocolError:
        return None


TARGETS: dict[str, Callable[[bytes], int]] = {"reply": reply, "request": request}
