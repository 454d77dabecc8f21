"""Start processes for the tests: Redis, workers, web servers. All listen on loopback and end with the test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pegasus_green.onebox.kdc import free_port


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    """Wait until a process listens. The time limit is only for a process that hangs."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"nothing listens on port {port}; status {process.poll()}") from None
            time.sleep(0.05)


@contextmanager
def running(
    command: Sequence[str], log: Path, cwd: Path | None = None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with its output in a file; end it by SIGTERM, with a limit of ten seconds."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """Serve a Redis without a file and yield its port; the test is skipped where Debian's package is missing."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: Debian's package redis-server has it")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with running(command, directory / "redis.log", cwd=directory) as process:
        wait_for_port(port, process)
        yield port
