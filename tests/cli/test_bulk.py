"""Test export, import, copy and clear: all rows keep their expiry, also after kills, invalid lines and faults."""

from __future__ import annotations

import io
import json
import os
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pegasus_green import Client
from pegasus_green.cli.bulk.formats import FORMATS, Malformed, decoder, encoder
from pegasus_green.cli.bulk.pace import Limit
from pegasus_green.cli.text import CODINGS
from pegasus_green.onebox import OneboxProcess
from tests.cli.killing import copy_under_faults, export_and_import, fill

ROWS = 20_000


@pytest.fixture(scope="module")
def box():
    """Serve a cluster for the tests that kill servers and cause faults."""
    with OneboxProcess(tables={"source": 4, "target": 8, "copied": 4}) as box:
        with Client(box.meta_addresses, timeout=10) as client:
            fill(client.table("source"), ROWS)
        yield box


def test_a_killed_export_and_a_killed_import_resume(box, tmp_path):
    export_and_import(box, tmp_path, ROWS, "rows.jsonl.zst")


def test_a_copy_is_complete_while_partitions_move_and_split(box, tmp_path):
    copy_under_faults(box, tmp_path, ROWS)


rows_strategy = st.lists(
    st.tuples(st.binary(max_size=12), st.binary(max_size=12), st.binary(max_size=40), st.integers(0, 2**32 - 1)),
    max_size=8,
)


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=40)
@given(rows=rows_strategy, skip=st.integers(0, 3))
def test_every_file_format_reads_what_it_writes(form, coding, rows, skip):
    begin, encode = encoder(form, coding, coding)
    data = begin + encode(rows[:2]) + encode(rows[2:])
    assert list(decoder(form, io.BytesIO(data), coding, coding, skip)) == rows[skip:]
    if form == "jsonl":
        assert [set(json.loads(line)) >= {"hash_key", "sort_key", "value"} for line in data.splitlines()] == [
            True
        ] * len(rows)


def test_export_and_import_keep_rows_in_every_file_format(tool, capfd, name, tmp_path):
    tool.run(capfd, "mset", name, "a", r"\x00", "b", 'x,"y"\\n', "--ttl", "1h")
    tool.run(capfd, "set", name, r"\xff", "never")
    mine = ["--hash-filter", f"prefix:{name}"]
    rows = tool.run(capfd, "scan", name, "-o", "csv").lines
    for suffix in ("jsonl", "csv", "bin", "jsonl.zst", "bin.zst"):
        path = str(tmp_path / f"rows.{suffix}")
        done = tool.run(capfd, "export", path, *mine, "--parallel", "1", "-o", "json").json
        assert (done["rows"], done["errors"]) == (3, 0)
        assert "add --overwrite" in tool.run(capfd, "export", path, *mine, status=2).err
        tool.run(capfd, "clear", name, "--yes")
        assert tool.run(capfd, "import", path).out.startswith("imported 3 rows")
        assert tool.run(capfd, "scan", name, "-o", "csv").lines == rows
        ttls = [row["ttl"] for row in tool.run(capfd, "scan", name, "--ttl", "-o", "json").json]
        assert [ttl and 3500 < ttl <= 3600 for ttl in ttls] == [True, True, None]
    in_hex = ["--hash-filter", f"prefix:{name.encode().hex()}", "--keys", "hex"]
    out = tool.process("export", "-", *in_hex, "--format", "csv", "--quiet")
    tool.run(capfd, "clear", name, "--yes")
    given = tool.process("import", "-", "--keys", "hex", "-t", "temp", stdin=out.out, table="other")
    assert given.out.startswith("imported 3 rows")
    assert tool.run(capfd, "scan", name, "-o", "csv").lines == rows


def test_invalid_lines_are_reported_and_skipped(tool, capfd, name, tmp_path):
    path = tmp_path / "rows.jsonl"
    good = [json.dumps({"hash_key": name, "sort_key": str(at), "value": "v"}) for at in range(3)]
    expired = json.dumps({"hash_key": name, "sort_key": "old", "value": "v", "expires_at": int(time.time()) - 5})
    bad = [
        "nonsense",
        "{}",
        "[1]",
        json.dumps({"hash_key": "\\q", "value": ""}),
        json.dumps({"hash_key": 7, "value": ""}),
    ]
    too_long = json.dumps({"hash_key": "x" * 70_000, "sort_key": "", "value": ""})
    path.write_text("\n".join([good[0], *bad, expired, too_long, *good[1:]]) + "\n")
    done = tool.run(capfd, "import", str(path), status=5)
    assert tool.run(capfd, "count", name).out == "3\n"
    assert done.err.count("error: ") == 6
    assert "line 2 is not a JSON object" in done.err
    assert "line 6: hash_key is not a string" in done.err
    assert len(max(done.err.splitlines(), key=len)) < 200
    assert "hash_key has 70000 bytes" in done.err
    assert "1 skipped" in done.out
    tool.run(capfd, "set", name, "0", "mine")
    assert "4 skipped" in tool.run(capfd, "import", str(path), "--if-absent", status=5).out
    assert tool.run(capfd, "get", name, "0").out == "mine\n"
    csv = tmp_path / "rows.csv"
    csv.write_text("hash_key,value\na,b\n")
    assert "has no column 'sort_key'" in tool.run(capfd, "import", str(csv), status=2).err
    csv.write_text(f"value,hash_key,sort_key\nv,{name},from csv\nv,{name}\n")
    assert "row 2 has 2 of 3 columns" in tool.run(capfd, "import", str(csv), status=5).err
    assert tool.run(capfd, "get", name, "from csv").out == "v\n"
    assert "cannot be read" in tool.run(capfd, "import", str(tmp_path / "none"), status=2).err


def test_times_blank_lines_and_marks_of_spreadsheets():
    text = CODINGS["text"]

    def read(form: str, data: bytes, skip: int = 0) -> list[Any]:
        return list(decoder(form, io.BytesIO(data), text, text, skip))

    lines = b'{"hash_key": "a", "value": "1"}\n  \n\n{"hash_key": "b", "value": "2"}\n'
    assert [row[0] for row in read("jsonl", lines)] == [b"a", b"b"]
    assert [row[0] for row in read("jsonl", lines, 1)] == [b"b"]
    heading = b"\xef\xbb\xbfhash_key,sort_key,value,expires_at\r\n"
    rows = read("csv", heading + b"a,b,c,\r\na,b,c,-5\r\na,b,c,99999999999\r\na,b,c,7\r\n")
    assert (rows[0], rows[3]) == ((b"a", b"b", b"c", 0), (b"a", b"b", b"c", 7))
    assert "'-5' is not a Unix time" in str(rows[1])
    assert "'99999999999' is not a Unix time" in str(rows[2])
    assert "True is not a Unix time" in str(read("jsonl", b'{"hash_key": "a", "value": "", "expires_at": true}')[0])


def test_a_cut_or_damaged_compressed_file_is_noticed(tool, capfd, name, tmp_path):
    path, state = tmp_path / "rows.jsonl.zst", tmp_path / "state"
    tool.run(capfd, "mset", name, *(str(at) for at in range(600)))
    tool.run(capfd, "export", str(path), "--hash-filter", f"prefix:{name}", "--quiet")
    whole = path.read_bytes()
    words = ["import", str(path), "--state", str(state), "--quiet", "-t", "other"]
    path.write_bytes(whole + whole[:-20])
    done = tool.run(capfd, *words, status=5)
    assert "is truncated; the rest of the file is skipped" in done.err
    assert done.out.startswith("imported 300 rows")
    path.write_bytes(whole + whole)
    assert tool.run(capfd, *words, "--resume", status=None).out.startswith("imported 600 rows")
    path.write_bytes(whole[:-3] + b"xxx")
    assert "is damaged" in tool.run(capfd, *words, status=2).err
    assert not state.exists()
    tool.run(capfd, "clear", name, "--yes")
    tool.run(capfd, "clear", name, "--yes", "-t", "other")


@pytest.mark.parametrize("cut", [3, 30, 40])
def test_a_truncated_binary_file_is_refused(cut):
    begin, encode = encoder("binary", CODINGS["text"], CODINGS["text"])
    data = begin + encode([(b"hash", b"sort", b"value", 0)])
    with pytest.raises(Malformed, match=r"truncated|begin"):
        list(decoder("binary", io.BytesIO(data[:cut]), CODINGS["text"], CODINGS["text"], 0))


WHOLE_JOB = {
    "command": "export", "table": "temp", "format": "jsonl", "zstd": False, "hash_filter": None, "sort_filter": None,
    "keys": "text", "values": "text",
}  # fmt: skip


def test_a_state_file_of_another_job_is_refused(tool, capfd, tmp_path):
    path = tmp_path / "rows.jsonl"
    state = tmp_path / "rows.jsonl.state"
    assert "nothing to resume" in tool.run(capfd, "export", str(path), "--resume", status=2).err
    state.write_text("{}")
    assert "add --resume" in tool.run(capfd, "export", str(path), status=2).err
    assert "cannot be read" in tool.run(capfd, "export", str(path), "--resume", status=2).err
    state.write_text('{"version": 1, "job": {"command": "export", "table": "old"}, "done": {}}')
    assert "its table is 'old'" in tool.run(capfd, "export", str(path), "--resume", status=2).err
    path.write_text("short")
    done = {"offset": 100, "token": None, "rows": 1, "bytes": 1}
    state.write_text(json.dumps({"version": 1, "job": {**WHOLE_JOB, "file": str(path)}, "done": done}))
    assert "is shorter than" in tool.run(capfd, "export", str(path), "--resume", status=2).err
    assert tool.run(capfd, "export", str(path), "--overwrite").out.startswith("exported ")
    assert not state.exists()
    full = tool.run(capfd, "export", "/dev/full", "--overwrite", "--state", str(state), status=5)
    assert "No space left" in full.err or "Invalid argument" in full.err
    assert "Traceback" not in full.err
    state.unlink(missing_ok=True)
    path.write_text("")
    job = {"command": "import", "table": "temp", "file": str(path), "if_absent": False, "format": None, "ttl": None}
    job |= {"keys": "text", "values": "text"}
    state.write_text(json.dumps({"version": 1, "job": job, "done": {"read": 1}}))
    resume = ["import", str(path), "--state", str(state), "--resume"]
    for changed in (["--keys", "hex"], ["--values", "base64"], ["--ttl", "5"], ["--format", "csv"]):
        assert "belongs to another job" in tool.run(capfd, *resume, *changed, status=2).err
    tool.run(capfd, *resume)
    assert not state.exists()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert "pipe is a pipe, which cannot be resumed" in tool.run(capfd, "export", str(tmp_path / "pipe"), status=2).err
    os.close(reader)
    assert "an export to stdout cannot be resumed" in tool.run(capfd, "export", "-", "--resume", status=2).err


def test_copy_and_clear(tool, capfd, name):
    tool.run(capfd, "mset", name, "a", "1", "b", "2", "c", "3")
    mine = ["--hash-filter", f"prefix:{name}"]
    assert tool.process("copy", "--to-table", "other", *mine, "--sort-filter", "prefix:b").out.startswith(
        "copied 1 row,"
    )
    tool.run(capfd, "set", name, "b", "theirs", "-t", "other")
    there = f"pegasus://{tool.metas[0]}/other"
    copied = tool.run(capfd, "copy", "--to-url", there, *mine, "--if-absent", "-o", "json").json
    assert (copied["rows"], copied["skipped"]) == (3, 1)
    assert tool.run(capfd, "scan", name, "-t", "other", "-o", "csv").lines[1:] == ["a,1", "b,theirs", "c,3"]
    assert "same table" in tool.run(capfd, "copy", status=2).err
    refused = tool.process("clear", *mine, status=2)
    assert "removes the rows that match the filters of table temp" in refused.err
    assert tool.run(capfd, "clear", name, "--start", "b", "--yes").out.startswith("removed 2 rows")
    assert tool.run(capfd, "clear", *mine, "--yes").out.startswith("removed 1 row,")
    assert tool.run(capfd, "clear", "-t", "other", *mine, "--yes", "-o", "json").json["rows"] == 3
    for wrong in ([], ["--all", *mine], [name, "--all"], ["--prefix", "x"]):
        tool.run(capfd, "clear", *wrong, "--yes", status=2)


def test_an_unset_variable_never_widens_a_command(tool, capfd, name):
    tool.run(capfd, "mset", name, "a", "1", "b", "2")
    for words in (
        ["clear", "--hash-filter", "prefix:"],
        ["clear", name, "--filter", "contains:"],
        ["clear", name, "--prefix", ""],
        ["clear", name, "--start", "", "--stop", ""],
        ["mdel", name, "--filter", "suffix:"],
        ["copy", "--to-table", "other", "--to-meta", ""],
        ["copy", "--to-table", "other", "--to-url", ""],
        ["copy", "--to-table", "other", "--to-cluster", ""],
        ["copy", "--to-table", "", "--to-meta", "127.0.0.1:1"],
    ):
        tool.run(capfd, *words, "--yes", status=2)
    assert tool.run(capfd, "count", name).out == "2\n"
    assert tool.run(capfd, "count", name, "-t", "other").out == "0\n"


@pytest.mark.parametrize("raw", [-1, 2**31 - 2**32], ids=["the last u32", "the first one after 31 bits"])
def test_rows_that_expire_after_2084_are_exported_and_copied(tool, capfd, monkeypatch, tmp_path, name, raw):
    """Clients whose sum of TTL and time overflows write such rows, for example for a TTL of 2**31 - 1 seconds."""
    monkeypatch.setattr("pegasus_green.operations.single.expire_ts", lambda *_: raw)
    with Client(tool.metas) as client:
        client.table("temp").set(name, "a", "1", ttl=1)
    monkeypatch.undo()
    mine = ["--hash-filter", f"prefix:{name}", "--quiet"]
    for suffix in ("jsonl", "csv", "bin"):
        path = str(tmp_path / f"rows.{suffix}")
        tool.run(capfd, "export", path, *mine)
        tool.run(capfd, "import", path, "-t", "other", "--quiet")
        assert time.time() + tool.run(capfd, "ttl", name, "a", "-t", "other", "-o", "json").json["ttl"] > 3.59e9
        tool.run(capfd, "clear", name, "-t", "other", "--yes", "--quiet")
    tool.run(capfd, "copy", "--to-table", "other", *mine)
    assert time.time() + tool.run(capfd, "ttl", name, "a", "-t", "other", "-o", "json").json["ttl"] > 3.59e9


def test_the_rate_limit_delays_batches():
    limit = Limit(1000, None, 500)
    assert limit.chunk == 100
    began = time.monotonic()
    for _ in range(6):
        limit.wait(100, 5000)
    assert time.monotonic() - began >= 0.29  # 600 rows at 1,000 a second, less the burst of 0.2 s and the last one
    assert Limit(None, 1, 500).chunk == 500


def test_progress_is_printed_as_lines_without_a_terminal(tool, capfd, name, monkeypatch, tmp_path):
    from pegasus_green.cli.bulk import pace

    monkeypatch.setattr(pace, "LINE_SECONDS", 0.0)
    tool.run(capfd, "mset", name, "a", "1", "b", "2")
    done = tool.run(capfd, "export", str(tmp_path / "a.jsonl"), "--hash-filter", f"prefix:{name}")
    assert "export: 2 rows" in done.err
    assert "0 errors" in done.err
    assert tool.run(capfd, "export", str(tmp_path / "b.jsonl"), "--quiet").err == ""


def test_a_terminal_shows_a_progress_bar_and_a_question(tool, name, tmp_path):
    rows = "".join(f'{{"hash_key": "{name}", "sort_key": "{at}", "value": "{at}"}}\n' for at in range(200))
    path = tmp_path / "rows.jsonl"
    path.write_text(rows)
    drawn = tool.terminal("import", str(path), "--rows-per-second", "250")
    assert drawn.status == 0
    assert "import: " in drawn.out
    assert "left" in drawn.out
    assert "imported 200 rows" in drawn.out
    refused = tool.terminal("clear", name, answer="n\n")
    assert refused.status == 1
    assert "Continue? [y/N]" in refused.out
    agreed = tool.terminal("clear", name, answer="y\n")
    assert agreed.status == 0
    assert "removed 200 rows" in agreed.out
