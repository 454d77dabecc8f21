"""Test keys and values as text: printed text can be read again, and invalid text is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pegasus_green import InvalidArgument
from pegasus_green.cli.text import CODINGS, escape, parse_duration, parse_size, show_duration, show_size, unescape


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
@given(data=st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_every_text_encoding_reads_what_it_writes(coding, data):
    text = coding.encode(data)
    assert text.isprintable()
    assert text == text.strip()
    assert coding.decode(text) == data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"user:7", "user:7"),
        (b"\x00\xff", r"\x00\xff"),
        (b"a\\b\n\t\r", r"a\\b\n\t\r"),
        ("Zürich 東京".encode(), "Zürich 東京"),
        (b" a b ", r"\x20a b\x20"),
        (b"  ", r"\x20\x20"),
        ("\u202eabc".encode(), r"\xe2\x80\xaeabc"),
        (b"", ""),
    ],
)
def test_text_is_readable(data, text):
    assert escape(data) == text
    assert unescape(text) == data


def test_escapes_of_the_official_tools_are_read():
    assert unescape(r"say \"it\", \'x\'\0") == b"say \"it\", 'x'\0"


@pytest.mark.parametrize(
    ("coding", "text"),
    [("text", r"C:\dir"), ("text", r"\x1"), ("text", "a\\"), ("hex", "0g"), ("base64", "a")],
)
def test_invalid_text_is_refused(coding, text):
    with pytest.raises(InvalidArgument, match=r"escape|hex|base64"):
        CODINGS[coding].decode(text)


def test_times_and_sizes_are_parsed_and_formatted():
    assert [parse_duration(text) for text in ("90", "1.5s", "15m", "2h", "7d", "1w", "never")] == [
        90, 1.5, 900, 7200, 604800, 604800, 0,
    ]  # fmt: skip
    assert [parse_size(text) for text in ("1000", "64k", "10M", "1GiB", "1.5kb")] == [
        1000,
        65536,
        10485760,
        2**30,
        1536,
    ]
    for wrong in ("", "-1", "1x", "1 h", "inf"):
        with pytest.raises(InvalidArgument, match="not a time"):
            parse_duration(wrong)
        with pytest.raises(InvalidArgument, match="not a size"):
            parse_size(wrong)
    assert [show_duration(seconds) for seconds in (4, 750, 7500, 273600, math.inf)] == [
        "4 s", "12 min 30 s", "2 h 5 min", "3 d 4 h", "never",
    ]  # fmt: skip
    assert [show_size(size) for size in (0, 1023, 4300, 2**20, 5 * 2**40)] == [
        "0 B", "1,023 B", "4.2 KiB", "1.0 MiB", "5,120.0 GiB",
    ]  # fmt: skip
