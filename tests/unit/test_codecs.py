"""Test codecs: values are restored, values of other writers are read, and invalid values cost little."""

from __future__ import annotations

import math
import sys
import tracemalloc
from time import process_time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pegasus_green.codecs import ZSTD_MAGIC, Codec, JsonCodec, Utf8Codec, ZstdCodec
from pegasus_green.errors import CodecError, InvalidArgument

zstandard = pytest.importorskip("zstandard")

SHORT = st.binary(max_size=200)
COMPRESSIBLE = st.builds(lambda part, times: part * times, st.binary(max_size=8), st.integers(0, 2000))
FRAMED = st.builds(lambda rest: ZSTD_MAGIC + rest, st.binary(max_size=100))
FRAMES = st.binary(max_size=300).map(lambda raw: zstandard.ZstdCompressor().compress(raw))
VALUES = SHORT | COMPRESSIBLE | FRAMED | FRAMES
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)


def java_frame(raw: bytes) -> bytes:
    """Compress as the Java client does: one frame of level 3 with the size in its header."""
    return bytes(zstandard.ZstdCompressor(level=3).compress(raw))


def streamed(raw: bytes, window: int = 20) -> bytes:
    """Compress like a stream writer: the frame does not contain the size of its content."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return bytes(compressor.compress(raw) + compressor.flush())


@pytest.mark.parametrize("codec", [Utf8Codec(), JsonCodec(), ZstdCodec(), ZstdCodec(JsonCodec())], ids=repr)
def test_all_are_codecs(codec: Codec) -> None:
    assert isinstance(codec, Codec)
    assert eval(repr(codec)).__dict__.keys() == codec.__dict__.keys()


# ---------------------------------------------------------------------------------------------------------------- utf8
@given(st.text())
def test_text_round_trips(text: str) -> None:
    assert Utf8Codec().decode(Utf8Codec().encode(text)) == text


@pytest.mark.parametrize("value", [b"bytes", 7, None, "\ud800"])
def test_values_that_are_not_text_are_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument):
        Utf8Codec().encode(value)


def test_invalid_utf8_is_an_error() -> None:
    with pytest.raises(CodecError, match="3 bytes"):
        Utf8Codec().decode(b"a\xffb")


# ---------------------------------------------------------------------------------------------------------------- json
@given(JSON)
@example("\ud800")
@example({"\udfff": ["\ud800"]})
@example(10**300)
def test_json_round_trips(value: Any) -> None:
    for codec in (JsonCodec(), JsonCodec(sort_keys=True)):
        again = codec.decode(codec.encode(value))
        assert again == value
        assert type(again) is type(value)


def test_json_is_compact_utf8() -> None:
    assert JsonCodec().encode({"é": [1, 2]}) == '{"é":[1,2]}'.encode()
    ordered = JsonCodec(sort_keys=True)
    assert ordered.encode({"b": 1, "a": 2}) == ordered.encode({"a": 2, "b": 1})


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [b"x", {1, 2}, math.nan, math.inf, {("a",): 1}, object(), _deep(100_000)], ids=type)
def test_values_that_json_cannot_represent_are_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument):
        JsonCodec().encode(value)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"{}x", b"[" * 100_000, b"NaN", b"[-Infinity]"], ids=range(7))
def test_invalid_json_is_an_error(raw: bytes) -> None:
    with pytest.raises(CodecError, match=str(len(raw))):
        JsonCodec().decode(raw)


def test_json_that_the_recursion_limit_refuses_is_not_called_invalid() -> None:
    with pytest.raises(CodecError, match="cannot be decoded within the recursion limit: maximum"):
        JsonCodec().decode(b"[" * 100_000 + b"]" * 100_000)


# ---------------------------------------------------------------------------------------------------------------- zstd
@given(VALUES)
@example(ZSTD_MAGIC)
@example(java_frame(b""))
@example(java_frame(java_frame(b"twice")))
@settings(max_examples=200)
def test_every_value_round_trips(raw: bytes) -> None:
    for codec in (ZstdCodec(), ZstdCodec(least=0), ZstdCodec(lenient=True), ZstdCodec(least=10**9)):
        assert codec.decode(codec.encode(raw)) == raw


@given(SHORT | COMPRESSIBLE)
def test_the_java_client_reads_and_writes_the_same(raw: bytes) -> None:
    codec = ZstdCodec()
    stored = codec.encode(raw)
    # It decompresses values with the magic number and returns other values unchanged.
    if stored.startswith(ZSTD_MAGIC):
        assert zstandard.frame_content_size(stored) == len(raw)
        assert zstandard.ZstdDecompressor().decompress(stored) == raw
    else:
        assert stored == raw
    assert codec.decode(java_frame(raw)) == raw
    assert codec.decode(streamed(raw)) == raw


@given(SHORT.filter(lambda raw: not raw.startswith(ZSTD_MAGIC)))
def test_uncompressed_values_stay_readable(raw: bytes) -> None:
    assert ZstdCodec().decode(raw) == raw


def test_several_frames_in_one_value_are_read() -> None:
    codec = ZstdCodec()
    assert (
        codec.decode(java_frame(b"one" * 50) + java_frame(b"") + streamed(b"two" * 9000)) == b"one" * 50 + b"two" * 9000
    )


def test_short_values_and_integers_are_not_compressed() -> None:
    codec = ZstdCodec()
    assert codec.encode(b"-9223372036854775808") == b"-9223372036854775808"
    assert codec.encode("é" * 31) == "é".encode() * 31  # type: ignore[arg-type]
    assert len(codec.encode(b"a" * 64)) < 64
    incompressible = bytes(range(256))
    assert codec.encode(incompressible) == incompressible


@pytest.mark.parametrize(
    "raw",
    [
        ZSTD_MAGIC,
        ZSTD_MAGIC + b"no frame at all",
        java_frame(b"cut" * 100)[:-2],
        streamed(b"cut" * 10_000)[:-2],
        java_frame(b"tail" * 100) + b"tail",
        java_frame(b"x" * 100) + ZSTD_MAGIC,
    ],
    ids=range(6),
)
def test_broken_frames_are_errors(raw: bytes) -> None:
    with pytest.raises(CodecError, match=f"{len(raw)} bytes"):
        ZstdCodec().decode(raw)
    assert ZstdCodec(lenient=True).decode(raw) == raw
    # The codec still works.
    assert ZstdCodec().decode(java_frame(b"ok" * 50)) == b"ok" * 50


def test_an_inner_codec_receives_decompressed_values() -> None:
    codec = ZstdCodec(JsonCodec(), least=0)
    value = {"text": "x" * 1000}
    assert codec.encode(value).startswith(ZSTD_MAGIC)
    assert codec.decode(codec.encode(value)) == value
    assert codec.decode(b'{"old": "and uncompressed"}') == {"old": "and uncompressed"}
    with pytest.raises(InvalidArgument):
        codec.encode(b"no JSON")


@pytest.mark.parametrize("name", ["level", "least", "max_size"])
@pytest.mark.parametrize("value", ["3", 2.5, None, True])
def test_options_of_zstd_are_whole_numbers(name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(InvalidArgument, match=f"{name} must be a whole number"):
        ZstdCodec(**options)


@pytest.mark.parametrize("make", [java_frame, streamed], ids=["sized", "streamed"])
def test_a_small_frame_cannot_fill_the_memory(make: Any) -> None:
    bomb = make(bytes(512 * 1024 * 1024))
    assert len(bomb) < 100_000
    codec = ZstdCodec(max_size=1024 * 1024)
    codec.decode(java_frame(bytes(1024 * 1024)))
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="max_size"):
            codec.decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 80 * 1024 * 1024
    finally:
        tracemalloc.stop()
    with pytest.raises(CodecError, match="max_size"):
        codec.decode(java_frame(bytes(1024 * 1024 + 1)))
    with pytest.raises(CodecError, match="max_size"):
        codec.decode(streamed(bytes(1024 * 1024 + 1)))
    with pytest.raises(CodecError, match="max_size"):
        codec.decode(java_frame(bytes(600_000)) + java_frame(bytes(600_000)))
    assert len(codec.decode(streamed(bytes(1024 * 1024)))) == 1024 * 1024


def test_values_above_the_read_limit_are_not_written() -> None:
    with pytest.raises(InvalidArgument, match="max_size"):
        ZstdCodec(max_size=1000).encode(bytes(1001))


@pytest.mark.parametrize("options", [{"level": 0}, {"level": 23}, {"max_size": 0}], ids=str)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        ZstdCodec(**options)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InvalidArgument, match=r"pip install zstandard"):
        ZstdCodec()


@pytest.mark.parametrize("behind", [b"", b"old value", java_frame(b"two"), java_frame(b"cut" * 50)[:-1]], ids=range(4))
def test_frames_after_an_empty_frame_are_read(behind: bytes) -> None:
    """The library returns b"" for all of them when it gets the whole value in one step."""
    raw = java_frame(b"") + behind
    whole = {b"": b"", java_frame(b"two"): b"two"}.get(behind)
    assert ZstdCodec(lenient=True).decode(raw) == (raw if whole is None else whole)
    if whole is None:
        with pytest.raises(CodecError):
            ZstdCodec().decode(raw)
    with pytest.raises(CodecError):
        ZstdCodec().decode(java_frame(b"")[:-1])


def test_many_tiny_frames_take_little_time() -> None:
    raw = java_frame(b"x") * 50_000
    begin = process_time()
    assert ZstdCodec().decode(raw) == b"x" * 50_000
    assert process_time() - begin < 1.0  # copying the rest for every frame took about 4
