"""Fixtures of the command line tests: one onebox process, and several ways to run the tool."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.onebox_process import onebox_process
from tests.pythons import ROOT


@dataclass
class Done:
    """The result of a run of the tool."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the output as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """Return the lines of the output."""
        return self.out.splitlines()


@dataclass
class Terminal:
    """The other end of a terminal."""

    fd: int
    seen: str = ""
    at: int = 0

    def send(self, text: str) -> None:
        """Type something."""
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until the terminal shows a text after the previous one."""
        deadline = time.monotonic() + 120
        while (found := self.seen.find(text, self.at)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen[-600:]!r}"
            if select.select([self.fd], [], [], 1)[0]:
                data = os.read(self.fd, 65536).decode("utf-8", "replace")
                self.seen += data
                if "\x1b[6n" in data:
                    self.send("\x1b[1;1R")  # it asks where the cursor is
        self.at = found + len(text)

    def read_to_the_end(self) -> None:
        """Read until the process has closed its end."""
        try:
            while data := os.read(self.fd, 65536):
                self.seen += data.decode("utf-8", "replace")
        except OSError:  # that is how the end of a terminal looks
            pass


@dataclass
class Tool:
    """Runs the tool against a cluster."""

    metas: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def env(self, table: str = "temp") -> dict[str, str]:
        """Return the environment of a process of the tool."""
        kept = {name: found for name, found in os.environ.items() if not name.startswith(("PEGASUS_", "XDG_"))}
        # Long enough on a busy machine.
        url = f"pegasus://{','.join(self.metas)}/{table}?timeout=20"
        return {**kept, "PEGASUS_URL": url, "PYTHONUNBUFFERED": "1", **self.environment}

    def start(self, *words: str, table: str = "temp", **settings: Any) -> subprocess.Popen[bytes]:
        """Start a process of the tool."""
        # Where the process has a hub with children of its own, gevent's reaps them all.
        popen = settings.pop("popen", subprocess.Popen)
        command = [sys.executable, "-m", "pegasus_green", *words]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **settings}
        process: subprocess.Popen[bytes] = popen(command, cwd=ROOT, env=self.env(table), **settings)
        return process

    def process(self, *words: str, table: str = "temp", stdin: str | bytes = b"", status: int | None = 0) -> Done:
        """Run the tool in its own process. With status None any exit status is accepted."""
        process = self.start(*words, table=table, stdin=subprocess.PIPE)
        data = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            out, err = process.communicate(data, timeout=180)
        finally:
            process.kill()
        done = Done(process.returncode, out.decode(), err.decode())
        assert status is None or done.status == status, (words, done)
        return done

    def terminal(
        self, *words: str, answer: str = "", talk: Callable[[Terminal], object] | None = None, table: str = "temp"
    ) -> Done:
        """Run the tool on a terminal; answer a question, or run a dialogue."""
        primary, secondary = pty.openpty()
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self.environment["TERM"] = "xterm-256color"
        try:
            process = self.start(*words, table=table, stdin=secondary, stdout=secondary, stderr=secondary)
        finally:
            del self.environment["TERM"]
            os.close(secondary)
        terminal = Terminal(primary)
        try:
            if talk is not None:
                talk(terminal)
            terminal.send(answer)
            terminal.read_to_the_end()
        finally:
            os.close(primary)
            try:
                status = process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
        return Done(status, terminal.seen, "")

    def run(self, capfd: pytest.CaptureFixture[str], *words: str, table: str = "temp", status: int | None = 0) -> Done:
        """Run the tool in this process, which is quicker."""
        from pegasus_green.cli.app import main

        before = dict(os.environ)
        capfd.readouterr()
        try:
            os.environ.clear()
            os.environ.update(self.env(table))
            code = main(words)
        finally:
            os.environ.clear()
            os.environ.update(before)
        out, err = capfd.readouterr()
        done = Done(code, out, err)
        assert status is None or done.status == status, (words, done)
        return done


@pytest.fixture(scope="session")
def tool() -> Iterator[Tool]:
    """Serve a cluster in its own process and run the tool against it."""
    with onebox_process("--table", "temp:8", "--table", "other:4") as (metas, _):
        yield Tool(metas)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a hash key of this test alone."""
    return f"{request.node.name[:30]}-{uuid.uuid4().hex[:8]}"
