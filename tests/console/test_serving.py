"""Test `pegasus-green console` and `onebox --console` as processes."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.console.browser import console_process
from tests.onebox_process import onebox_process
from tests.pythons import ROOT


def fetch(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pegasus_green", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


def test_the_console_command_serves_on_the_given_host():
    with (
        onebox_process("--table", "temp:4") as (metas, _),
        console_process(metas, "--host", "ops.example.org") as url,
    ):
        status, text = fetch(url)
        assert status == 200
        assert "3 of 3 alive" in text
        assert "read only" in text
        assert fetch(url, Host="ops.example.org")[0] == 200
        assert fetch(url, Host="other.example.org")[0] == 421
        taken = run("console", "--meta", metas[0], "--listen", url.removeprefix("http://").rstrip("/"))
        assert taken.returncode == 2
        assert "cannot listen on 127.0.0.1:" in taken.stderr
        assert "already in use" in taken.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--listen", "8080"), "is not HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), "is not HOST:PORT"),
        (("--listen", "0.0.0.0:0"), "give the host name that browsers use with --host NAME"),
        (("--listen", "[::]:0"), "give the host name that browsers use with --host NAME"),
    ],
)
def test_wrong_addresses_are_refused(words, told):
    done = run("console", "--meta", "127.0.0.1:1", *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_the_onebox_serves_the_console():
    command = [sys.executable, "-m", "pegasus_green", "onebox", "--port", "0", "--console", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = dict(word.partition("=")[::2] for word in process.stdout.readline().split())
            status, text = fetch(words["console"])
            assert status == 200
            assert words["meta"] in text
        finally:
            process.terminate()
        assert process.wait(120) == 0


def test_a_secured_onebox_refuses_to_serve_the_console(tmp_path):
    done = run("onebox", "--console", "--auth-keytab", str(tmp_path / "keytab"), "--auth-fqdn", "onebox.test")
    assert done.returncode == 2
    assert "--console has no credentials" in done.stderr
