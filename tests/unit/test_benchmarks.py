"""Test the parts of the benchmark: the responder, the verdicts, and the figures in the documents."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from typing import Any

import gevent
import pytest
from gevent.event import Event

from benchmarks.main import measure
from benchmarks.measure import Bench, Process, Samples
from benchmarks.memory import resident
from benchmarks.onebox import cpu_seconds
from benchmarks.pacing import pace_callers, pace_socket
from benchmarks.payload import BATCHES, HASH_KEY, ROWS, table_name, value_of
from benchmarks.report import Line, markdown, says_fraction
from benchmarks.rows import ROWS_OF_TABLE, Row, get, pair
from pegasus_green.keys import encode_key
from pegasus_green.protocol import meta, rpc, rrdb
from pegasus_green.protocol.framing import encode_request, parse_reply
from tests.pythons import ROOT


@pytest.fixture(scope="module")
def responder():
    process = Process([sys.executable, "-m", "benchmarks.responder"], set())
    try:
        yield process, process.line()
    finally:
        process.end()


def exchange(address, requests, replies, cuts=(), chance=None):
    """Send bytes, cut at random places, and return that many reply frames."""
    host, _, port = address.rpartition(":")
    data = b"".join(requests)
    places = sorted({*cuts, *((chance.randrange(len(data)) for _ in range(20)) if chance else ())})
    received = b""
    frames: list[bytes] = []
    with socket.create_connection((host, int(port)), 10) as sock:
        for begin, end in zip([0, *places], [*places, len(data)]):
            sock.sendall(data[begin:end])
        while len(frames) < replies:
            size = int.from_bytes(received[:4], "big") if len(received) >= 4 else 1 << 30
            if len(received) >= size:
                frames.append(received[:size])
                received = received[size:]
                continue
            chunk = sock.recv(1 << 20)
            assert chunk, "the responder hung up"
            received += chunk
    assert received == b""
    return frames


def result(kind: Any, frame: bytes) -> Any:
    return kind.response.decode_reply(frame, parse_reply(frame).offset)


def route(address, name):
    request = encode_request(rpc.QUERY_CFG, 1, rpc.QUERY_CFG.encode_argument(meta.QueryCfgRequest(app_name=name)))
    (frame,) = exchange(address, [request], 1)
    return result(rpc.QUERY_CFG, frame)


def test_the_name_of_the_table_selects_the_routes(responder):
    _, address = responder
    answer = route(address, table_name(partitions=7, servers=3))
    assert (answer.err, answer.partition_count, len(answer.partitions)) == ("ERR_OK", 7, 7)
    hosts = [meta.format_address(partition.primary).partition(":")[0] for partition in answer.partitions]
    assert hosts == [f"127.0.0.{1 + index % 3}" for index in range(7)]
    assert route(address, "no_such_table").err == "ERR_OBJECT_NOT_FOUND"
    assert route(address, table_name(number=1)).app_id != route(address, table_name(number=2)).app_id


@pytest.mark.parametrize("seed", range(3))
def test_mixed_requests_in_pieces_get_their_own_answers_in_order(responder, seed):
    process, address = responder
    chance = random.Random(seed)
    apps = {size: route(address, table_name(value=size)).app_id for size in (10, 100, 70_000)}
    before = process.ask("stats")["requests"]
    requests, wanted = [], []
    for seqid in range(400):
        size = chance.choice([10, 100, 100, 100, 70_000] if seqid % 50 == 0 else [10, 100])
        kind = chance.choice([rpc.GET, rpc.GET, rpc.GET, rpc.PUT])
        key = encode_key(b"user", b"name" * chance.choice([1, 1, 1, 2]))
        argument = key if kind is rpc.GET else rrdb.UpdateRequest(key=key, value=b"v" * 3)
        requests.append(
            encode_request(
                kind, seqid, kind.encode_argument(argument), app_id=apps[size], version=chance.choice([0, 1, 1]),
                partition_hash=chance.getrandbits(64), partition_index=chance.randrange(8),
            )
        )  # fmt: skip
        wanted.append((kind, seqid, size))
    for (kind, seqid, size), frame in zip(wanted, exchange(address, requests, len(wanted), chance=chance)):
        reply = parse_reply(frame)
        assert (reply.error, reply.name, reply.seqid) == ("ERR_OK", kind.name + "_ACK", seqid)
        found = result(kind, frame)
        assert (found.error, found.app_id) == (0, apps[size])
        if kind is rpc.GET:
            assert found.value == value_of(size)
    after = process.ask("stats")["requests"]
    for kind in (rpc.GET, rpc.PUT):
        assert after[kind.label] - before.get(kind.label, 0) == sum(done[0] is kind for done in wanted)


def test_a_scan_brings_every_row_once_in_order(responder):
    _, address = responder
    app_id = route(address, table_name(partitions=1)).app_id
    argument = rpc.GET_SCANNER.encode_argument(rrdb.GetScannerRequest(batch_size=ROWS))
    rows: list[bytes] = []
    request, known = encode_request(rpc.GET_SCANNER, 1, argument, app_id=app_id), rpc.GET_SCANNER
    while True:
        (frame,) = exchange(address, [request], 1)
        found = result(known, frame)
        rows += [row.key for row in found.kvs]
        if found.context_id == -1:
            break
        known = rpc.SCAN
        request = encode_request(
            known, 2, known.encode_argument(rrdb.ScanRequest(context_id=found.context_id)), app_id=app_id
        )
    assert len(rows) == ROWS * BATCHES
    assert rows == sorted(set(rows))
    assert all(row.startswith(encode_key(HASH_KEY, b"row")) for row in rows)


def row(**changes):
    return Row(
        **{"key": "k", "title": "t", "against": "x", "unit": "us", "must": 1.5, "aim": 1.2, "measure": None, **changes}
    )


@pytest.mark.parametrize(
    ("changes", "ours", "theirs", "met"),
    [
        ({}, [12.0, 11.0, 90.0], [10.0, 10.0, 10.0], "aim"),  # the median of the ratios
        ({}, [15.0], [10.0], "must"),
        ({}, [15.1], [10.0], "NO"),
        ({"higher": True, "must": 0.6, "aim": 0.8}, [79.0], [100.0], "must"),
        ({"higher": True, "must": 0.6, "aim": 0.8}, [59.0], [100.0], "NO"),
        ({"judge": "difference", "must": 2, "aim": 1}, [10.0], [8.5], "must"),
        ({"judge": "value", "must": 3, "aim": 2}, [4.0], [], "NO"),
        ({"must": None, "aim": None}, [4.0], [1.0], ""),
        ({"must": 1.0, "aim": None}, [4.0], [4.0], "must"),
        ({"must": 1.0, "aim": None}, [4.1], [4.0], "NO"),
    ],
)
def test_verdicts_compare_figures_with_goals(changes, ours, theirs, met):
    assert Line(row(**changes), Samples(ours, theirs)).met == met


@pytest.mark.parametrize(("goals", "cells"), [((1.0, None), "1 x |  | must"), ((None, None), " |  | ")])
def test_the_table_has_rows_without_an_aim(goals, cells):
    must, aim = goals
    line = Line(row(must=must, aim=aim), Samples([4.0, 4.0], [4.0, 4.0], memory=[24.04, 131.0]))
    machine = {"cpu": "c", "cores": 2, "system": "s", "load before": "0"}
    result = {"date": "2026-11-28", "machine": machine, "versions": {}, "pairs": 2, "rows": [line.plain()]}
    assert markdown(result).endswith(f"| t | 4.00 us | x: 4.00 us | 1.00 x (1.00 .. 1.00) | {cells} | 24.0 / 131 |")


def test_the_resident_memory_grows_with_the_pages_that_are_written():
    before = resident()
    block = bytearray(b"x") * (64 * 2**20)
    grown = [after - size for after, size in zip(resident(), before)]
    assert len(block) == 64 * 2**20
    assert all(60 <= size <= 70 for size in grown)
    assert len(grown) == (sys.platform == "linux")


def test_each_side_of_a_row_has_a_process_of_its_own_for_its_memory():
    bench = Bench({}, pairs=1, scale=0.01)
    try:
        many, few = get(2000, 1), get(1, 1)
        samples = pair(many, few)(bench)
        more, less = samples.memory
        # 8 KiB for each waiting caller; the workers of the times have the callers of both sides.
        assert more - less > 2000 * 6 / 1024
        assert [*bench.workers] == ["green"]
        bench.sizes[repr(few)] = [1.0]
        assert bench.memory(few) == [1.0]
    finally:
        bench.close()


def test_a_row_fails_alone_if_its_worker_dies():
    bench = Bench({}, pairs=1, scale=0.01)
    four, eight = get(4, 400), get(8, 400)
    try:
        bench.open(four)
        bench.workers["green"].process.kill()
        failed = measure(bench, row(measure=pair(four, eight)))
        assert failed.failed
        assert not failed.left_out
        assert len(measure(bench, row(measure=pair(four, eight))).samples.ours) == 1
    finally:
        bench.close()


def test_the_cpu_time_of_another_process_is_exact():
    before, began = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - began < 0.003:
        pass
    assert cpu_seconds(os.getpid()) - before == pytest.approx(time.process_time() - began, abs=0.001)


class Echo:
    """A socket that takes longer to send than the schedule allows, and answers each byte with one byte."""

    def __init__(self, pause):
        self.pause, self.here, self.steps, self.size = pause, Event(), [], 0

    def sendall(self, data):
        self.steps.append("send")
        until = time.perf_counter() + self.pause
        while time.perf_counter() < until:
            pass
        self.size += len(data)
        self.here.set()

    def recv(self, _size):
        self.here.wait()
        self.here.clear()
        self.steps.append("recv")
        size, self.size = self.size, 0
        return b"x" * size


@pytest.mark.parametrize("spin", [False, True])
def test_a_raw_socket_that_falls_behind_its_schedule_still_reads(spin):
    sock = Echo(0.002)
    used = pace_socket(sock, [b"x"], 1, 1000, 30, spin=spin)
    assert used["calls"] == 30
    assert sock.steps == ["send", "recv"] * (len(sock.steps) // 2)
    assert len(sock.steps) > 2


def test_an_error_of_a_scheduled_call_ends_the_block():
    def call(number):
        if number == 3:
            raise ZeroDivisionError

    with gevent.Timeout(10), pytest.raises(ZeroDivisionError):
        pace_callers(call, 4, 1000, 1_000_000, spin=False)

    class HungUp(Echo):
        def recv(self, _size):
            return b""

    with gevent.Timeout(10), pytest.raises(ConnectionError):
        pace_socket(HungUp(0.0), [b"x"], 1, 1000, 1_000_000, spin=False)


def test_a_goal_without_figures_is_not_met():
    assert Line(row(), Samples(), "no peer", left_out=True).met == ""


def test_every_aim_is_stricter_than_its_required_value():
    assert len({row.key for row in ROWS_OF_TABLE}) == len(ROWS_OF_TABLE)
    for each in ROWS_OF_TABLE:
        if each.must is None:
            assert each.aim is None
        elif each.aim is not None:
            assert (each.aim > each.must) is each.higher
    assert says_fraction(1 / 9, 0.2)


def test_the_documents_name_rows_that_exist():
    text = (ROOT / "docs" / "performance.md").read_text()
    named = text.partition("--only ")[2].split(" ")[0].split(",")
    assert set(named) <= {row.key for row in ROWS_OF_TABLE}


def test_the_documents_show_the_latest_figures():
    """They are updated after a run of the benchmark."""
    latest = json.loads((ROOT / "benchmarks" / "results" / "latest.json").read_text())
    assert markdown(latest) in (ROOT / "docs" / "performance.md").read_text()
    readme = " ".join((ROOT / "README.md").read_text().split())
    rows = {row["row"]: row for row in latest["rows"]}
    lines = (ROOT / "docs" / "performance.md").read_text().partition("## The official clients\n")[2].splitlines()
    shown = dict(line.split(" | ")[:2] for line in lines if line.endswith(" x |"))
    of_base = [row for row in latest["rows"] if row.get("against") == "8b3ce43" and row["aim"] is not None]
    figures = {f"| {row['title']}": f"{row['figure']:.2f} x" for row in of_base}
    assert len(shown) == 6
    assert shown.items() <= figures.items()
    judged = [row for row in latest["rows"] if row.get("must") is not None]
    met = sum(row["met"] != "NO" for row in judged)
    assert f"On {latest['date'][:10]}, " in readme
    assert f"1/{1 / rows['get64']['figure']:.1f} of pypegasus3's" in readme
    assert f"{met} of the {len(judged)} goals were met" in readme
