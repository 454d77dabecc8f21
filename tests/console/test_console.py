"""Test every page of the console, and the requests that it refuses, by WSGI calls."""

from __future__ import annotations

import ast
import logging
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import gevent
import pytest

import pegasus_green.console
from pegasus_green import Client
from pegasus_green.admin.model import PartitionInfo
from pegasus_green.console import ConsoleServer, wsgi
from pegasus_green.console.history import History
from pegasus_green.console.markup import html
from pegasus_green.console.plots import placement
from pegasus_green.console.server import is_loopback, is_wildcard
from pegasus_green.onebox import Onebox
from tests.console.conftest import Caller

ROW = {"table": "temp", "hash": "user:7", "sort": "name"}
VOID = ("meta", "link", "input", "br")


class Nesting(HTMLParser):
    """Checks that tags close in order, that ids are unique, and that every field has a label."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fields: list[str] = []
        self.labels: list[str] = []
        self.feed(text)
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)
        assert set(self.fields) <= set(self.labels)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert "style" not in found, "the content policy forbids it"
        assert not any(name.startswith("on") for name in found), "the content policy forbids it"
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag in ("input", "select", "textarea") and found.get("type") != "hidden":
            self.fields.append(found["id"] or "")
        if tag == "label":
            self.labels.append(found["for"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in ("polyline", "rect"), "HTML has no such tags, SVG has"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/", ""),
        ("/table", {"name": "temp"}),
        ("/table", {"name": "temp", "sample": "1"}),
        ("/browse", ""),
        ("/browse", {"table": "temp", "hash": "user:7"}),
        ("/row", ROW),
        ("/client", ""),
    ],
)
def test_every_page_is_valid_html(write, path, query):
    answer = write(path, query)
    assert answer.status == 200
    Nesting(answer.text)
    assert answer.text.count("<h1>") == 1
    nonce = re.search(r"script-src 'nonce-([^']+)'", answer.headers["Content-Security-Policy"])
    assert nonce
    assert answer.text.count(f'nonce="{nonce[1]}"') == 2
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r'(?:src|href)="(?:https?:)?//', answer.text), "nothing comes from elsewhere"
    head = write(path, query, REQUEST_METHOD="HEAD")
    assert (head.status, head.text) == (200, "")


def test_the_cluster_page(read, box):
    text = read("/").text
    assert "3 of 3 alive" in text
    assert text.count('<span class="ok">alive</span>') == 3
    assert box.meta_addresses[0] in text
    assert "read only" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text.partition("<main>")[2], "names are escaped"


def test_the_table_page(read, client):
    client.admin.set_envs("<b>", {"default_ttl": 100000})
    assert "<td>default_ttl</td><td>100000</td>" in read("/table", {"name": "<b>"}).text
    text = read("/table", {"name": "temp"}).text
    assert text.count("<rect") == 8 * 3 + 3 + 2, "a rectangle for each replica, each node and each colour"
    assert text.count(": primary on ") == 8
    assert text.count(": secondary on ") == 16
    assert "2.7 primaries on average" in text
    assert "user:7" not in text
    sample = read("/table", {"name": "temp", "sample": "1"}).text
    assert "First rows of partitions 0, 2, 4, 6" in sample
    sampled = {client.table("temp").partition_of(key) for key in ("user:7", "many")} & {0, 2, 4, 6}
    assert ("/row?" in sample) == bool(sampled)


def test_the_picture_marks_dead_nodes_and_partitions_without_a_primary():
    def part(index: int, primary: str, *secondaries: str) -> PartitionInfo:
        return PartitionInfo(index, 3, primary, secondaries, 2)

    text = placement([part(0, "a:1", "b:1"), part(1, "", "a:1")], ["a:1", "b:1"], dead={"b:1"})
    assert "b:1 (dead)</text>" in text
    assert "a:1 (dead)" not in text
    assert "partition 1 has no primary" in text
    assert "no primary;" in text
    well = placement([part(0, "a:1")] * 4096, ["a:1"])
    assert "no primary" not in well
    assert 'width="16392"' in well, "a column has at least 4 pixels"


def test_sort_keys_by_page(read):
    where = {"table": "temp", "hash": "many"}
    pages = [read("/browse", where).text]
    while following := re.search(r'href="/browse\?([^"]*)">Next page', pages[-1]):
        pages.append(read("/browse", following[1].replace("&amp;", "&")).text)
    keys = [re.findall(r'sort=(\d+)[&"]', page) for page in pages]
    assert [len(found) for found in keys] == [50, 50, 20]
    assert [key for found in keys for key in found] == [f"{number:03}" for number in range(120)]
    assert "First page" not in pages[0]
    assert "First page" in pages[1]
    assert "none" in read("/browse", {"table": "temp", "hash": "nobody"}).text


def test_long_keys_are_cut_in_lists(read, client):
    client.table("temp").set("k" * 5000, "s" * 60_000, "")
    text = read("/browse", {"table": "temp", "hash": "k" * 5000}).text
    assert f">{'s' * 100}... (60,000 bytes)</a>" in text
    assert f"Sort keys of {'k' * 100}... (5,000 bytes)<" in text
    client.table("temp").remove("k" * 5000, "s" * 60_000)


def test_a_row_as_text_json_and_hex(read):
    text = read("/row", ROW).text
    assert ">{&quot;first&quot;: &quot;Ada&quot;, &quot;tags&quot;: [&quot;&lt;i&gt;&quot;]}</pre>" in text
    assert "{\n  &quot;first&quot;: &quot;Ada&quot;," in text
    assert "000000  7b 22 66 69 72 73 74" in text
    assert re.search(r"Expires in</dt><dd>(9\d\d|1,000) s", text)
    assert "<form" not in text, "nothing is edited where the console reads only"
    binary = read("/row", {"table": "temp", "hash": "user:7", "sort": "\\x00\\xff"}).text
    assert "Not UTF-8" in binary
    assert r">\x00\x01\xff</pre>" in binary
    assert "The value is not JSON" in binary
    assert "00 01 ff" in binary
    assert "000000  7b 22" in read("/browse", ROW).text, "a sort key leads to the row"


def test_long_values_are_cut(write, client):
    client.table("temp").set("long", "value", "é" * 50_000)
    try:
        text = write("/row", {"table": "temp", "hash": "long", "sort": "value"}).text
    finally:
        client.table("temp").remove("long", "value")
    assert "First bytes shown: text 65,536, hex 4,096 of 100,000." in text
    assert "too long to be edited" in text
    assert len(text) < 130_000


def test_json_that_indentation_would_make_a_thousand_times_as_long_is_not_shown(read, client):
    depth = 300
    client.table("temp").set("nested", "value", "[" * depth + "1," * 30_000 + "1" + "]" * depth)
    try:
        text = read("/row", {"table": "temp", "hash": "nested", "sort": "value"}).text
    finally:
        client.table("temp").remove("nested", "value")
    assert "nested too deeply to be shown as JSON" in text
    assert len(text) < 130_000


def test_a_row_is_stored_changed_and_removed(write, client):
    table = client.table("temp")
    where = {"table": "temp", "hash": "edit me", "sort": "a&b"}
    absent = write("/row", where)
    assert absent.status == 404
    assert "New row" in absent.text
    form = {**write.fields(absent.text), "value": "one\\x00\r\ntwo", "coding": "text", "ttl": "500"}
    assert form["seen"] == ""
    stored = write("/row", where, form)
    assert stored.status == 303
    assert stored.headers["Location"] == "/row?sort=a%26b&table=temp&hash=edit+me"
    assert table.get("edit me", "a&b") == b"one\x00\ntwo"
    assert 490 < (table.ttl("edit me", "a&b") or 0) <= 500
    conflict = write("/row", where, form)
    assert conflict.status == 409
    assert "has changed" in conflict.text
    page = write("/row", where).text
    kept = re.search(r'name="ttl" inputmode="numeric" value="(\d+)"', page)
    assert kept
    assert int(kept[1]) > 490
    form = {**write.fields(page), "value": "00 ff", "coding": "hex", "ttl": ""}
    assert write("/row", where, form).status == 303
    assert table.get("edit me", "a&b") == b"\x00\xff"
    assert table.ttl("edit me", "a&b") == math.inf
    page = write("/row", where).text
    form = {**write.fields(page), "action": "remove"}
    assert write("/row", where, form).status == 400
    assert table.exist("edit me", "a&b")
    assert write("/row", where, {**form, "sure": "yes"}).headers["Location"] == "/browse?table=temp&hash=edit+me"
    assert not table.exist("edit me", "a&b")


def test_a_row_without_hash_key(write, client):
    where = {"table": "temp", "hash": "", "sort": "alone"}
    form = {**write.fields(write("/row", where).text), "value": "x", "coding": "text", "ttl": ""}
    assert write("/row", where, form).status == 303
    assert client.table("temp").get("", "alone") == b"x"
    form = {**write.fields(write("/row", where).text), "action": "remove", "sure": "yes"}
    assert write("/row", where, form).status == 303
    assert client.table("temp").get("", "alone") is None


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"token": "x"}, 403),
        ({"token": "é"}, 403),
        ({"action": "other"}, 400),
        ({"value": "\\"}, 400),
        ({"coding": "hex", "value": "0"}, 400),
        ({"coding": "nothing"}, 400),
        ({"ttl": "-1"}, 400),
        ({"ttl": "0"}, 400),
        ({"ttl": "1e9"}, 400),
        ({"ttl": "9" * 5000}, 400),
        ({"seen": "00"}, 409),
    ],
)
def test_wrong_forms_change_nothing(write, client, changes, status):
    before = client.table("temp").get("user:7", "name")
    form = {**write.fields(write("/row", ROW).text), "value": "new", "coding": "text", "ttl": "", **changes}
    assert write("/row", ROW, form).status == status
    assert client.table("temp").get("user:7", "name") == before


def test_posts_from_other_origins_are_refused(read, write, client):
    form = {**write.fields(write("/row", ROW).text), "value": "new", "coding": "text", "ttl": ""}
    before = client.table("temp").get("user:7", "name")
    assert read("/row", ROW, form).status == 403
    assert write("/row", ROW, form, HTTP_ORIGIN="http://evil.example").status == 403
    assert write("/row", ROW, form, HTTP_ORIGIN="null").status == 403
    assert write("/row", ROW, form, CONTENT_LENGTH="").status == 411
    assert write("/row", ROW, form, CONTENT_LENGTH=str(10**9)).status == 413
    other = write("/browse", ROW, form)
    assert (other.status, other.headers["Allow"]) == (405, "GET, HEAD")
    assert read("/row", ROW, REQUEST_METHOD="DELETE").status == 405
    assert client.table("temp").get("user:7", "name") == before
    assert write("/row", ROW, form, HTTP_ORIGIN="http://localhost:8080").status == 303
    client.table("temp").set("user:7", "name", before or b"", ttl=1000)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("ops.example.org", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("localhost@evil.example", 421),
        ("[::1", 421),
        ("evil.example@localhost", 421),
        ("localhost/evil.example", 421),
        ("", 421),
    ],
)
def test_requests_with_a_foreign_host_header_are_refused(client, host, status):
    assert Caller(wsgi(client, hosts=["OPS.example.org"]))("/", HTTP_HOST=host).status == status


def test_unknown_paths_get_an_error_page(read):
    for path, query, status, words in (
        ("/nothing", "", 404, "no such page"),
        ("/row", {**ROW, "sort": "nothing"}, 404, "There is no such row"),
        ("/table", {"name": "nosuch"}, 404, "nosuch"),
        ("/row", {**ROW, "table": "nosuch"}, 404, "nosuch"),
        ("/table", "", 400, "no parameter &#x27;name&#x27;"),
        ("/row", {"table": "temp"}, 400, "neither a hash key nor a sort key"),
        ("/row", {**ROW, "hash": "\\q"}, 400, "hash is not valid escaped text"),
        ("/browse", "table=temp&hash=%ff", 400, "must be UTF-8"),
        ("/browse", "&".join(f"a{number}=1" for number in range(50)), 400, "at most 20 parameters"),
        ("/browse", {"table": "temp", "hash": "x" * 70_000}, 400, "65534"),
    ):
        answer = read(path, query)
        assert (answer.status, words in answer.text) == (status, True), (path, query, answer.text[-600:])
        Nesting(answer.text)


def test_links_work_when_mounted_under_a_path(client):
    call = Caller(wsgi(client), base="/debug/pegasus")
    for path, query in (("", ""), ("/table", {"name": "temp"}), ("/row", ROW)):
        text = call(path, query).text
        links = re.findall(r'(?:href|action)="(/[^"]*)"', text)
        assert links
        assert all(found.startswith("/debug/pegasus/") for found in links)


def test_a_dead_cluster_gets_an_error_page():
    with Client(["127.0.0.1:1"]) as client:
        call = Caller(wsgi(client, timeout=1.0))
        answer = call("/")
        assert answer.status == 503
        assert "The cluster does not answer" in answer.text
        assert "127.0.0.1:1" in answer.text
        assert "HINT" not in answer.text
        assert "<p>Nothing answers on this machine: start a cluster" in answer.text
        assert call("/row", ROW).status == 503
        assert call("/client").status == 200, "the client's own counters need no cluster"
    assert call("/").status == 503


def test_a_dead_server_is_shown():
    with Onebox(tables={"temp": 4}) as box, Client(list(box.meta_addresses)) as client:
        box.kill(0)
        call = Caller(wsgi(client))
        with gevent.Timeout(30):
            while '<span class="bad">dead</span>' not in call("/").text:
                gevent.sleep(0.05)
        assert "dead nodes: 1" in call("/").text
        page = call("/table", {"name": "temp"})
        assert page.status == 200
        assert " (dead)</text>" in page.text
        assert '<span class="bad">dead</span>' in page.text


def test_the_client_page_shows_the_calls_of_the_client(read, client):
    table = client.table("temp")
    history = read.app._history

    def calls():
        text = read("/client").text
        Nesting(text)
        found = re.search(r'<td>temp</td><td class="n">([\d,]+)</td>', text)
        assert found
        return int(found[1].replace(",", ""))

    before = calls()
    for _ in range(10):
        table.get("user:7", "name")
    assert calls() == before + 10
    assert len(history.samples) >= 2
    rates = history.rates("calls")
    assert any(rate > 0 for _, rate in rates)
    assert re.search(r"≤\u00a0[\d.]+\u00a0(µs|ms|s)<", read("/client").text)


def test_the_history_greenlet_ends_with_the_client(box, monkeypatch):
    monkeypatch.setattr("pegasus_green.console.history.INTERVAL", 0.01)
    client = Client(list(box.meta_addresses))
    history = History(client)
    history.start()
    greenlet = history._greenlet
    history.start()
    assert history._greenlet is greenlet
    client.close()
    assert not history.take()
    with gevent.Timeout(30):
        greenlet.join()


def test_no_key_and_no_value_is_logged(write, client, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    form = {**write.fields(write("/row", ROW).text), "value": "secret-value", "coding": "text", "ttl": ""}

    def fail(*_words: object, **_options: object) -> None:
        raise RuntimeError("secret-value user:7")

    monkeypatch.setattr("pegasus_green.console.browse.change", fail)
    answer = write("/row", ROW, form)
    assert answer.status == 500
    assert "RuntimeError" in answer.text
    assert "RuntimeError" in caplog.text
    assert "secret-value" not in caplog.text + answer.text
    assert "user:7" not in caplog.text


def test_templates_escape():
    assert html("<p>{x}</p>", x='<a b="c">') == "<p>&lt;a b=&quot;c&quot;&gt;</p>"
    assert html("{x}", x=html("<b>{y}</b>", y="&")) == "<b>&amp;</b>"
    assert html("{x}", x=["<", html("<br>")]) == "&lt;<br>"


def test_loopback_and_wildcard_addresses_are_recognized():
    assert is_loopback("127.0.0.9")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("example.org")
    assert is_wildcard("0.0.0.0")
    assert is_wildcard("::")
    assert is_wildcard("")
    assert not is_wildcard("example.org")


def test_the_server_answers_over_http(client):
    from gevent import socket

    server = ConsoleServer(client, port=0)
    server.start()
    try:
        port = int(server.url.rsplit(":", 1)[1].rstrip("/"))
        with gevent.Timeout(30), socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            answer = b"".join(iter(lambda: peer.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"3 of 3 alive" in answer
    finally:
        server.stop()
        server.stop()


def test_importing_the_console_loads_neither_frameworks_nor_the_onebox():
    for path in Path(pegasus_green.console.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not {"contrib", "onebox"} & set((node.module or "").split(".")), path
