"""Test the shell: from a pipe, on a terminal, word splitting, its own commands, and completion."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import gevent
import pytest

from pegasus_green.cli.app import make_program
from pegasus_green.cli.frame import App, Settings
from pegasus_green.cli.shell import Shell, split_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (r"get a \x00 'b c' \\", ["get", "a", r"\x00", "b c", "\\\\"]),
        ('set h s "a b"', ["set", "h", "s", "a b"]),
        ("get a#b ''", ["get", "a#b", ""]),
        ("  # get", []),
        ("", []),
        ("""set h s '"q"'""", ["set", "h", "s", '"q"']),
    ],
)
def test_a_line_is_split_into_words(line, words):
    assert split_words(line) == words


def test_the_shell_runs_commands_from_a_pipe(tool, name):
    script = rf"""
        use
        use other
        use
        set {name} "a b" \x00\n
        get {name} "a b"
        get {name} nothing
        help scan
        help use
        help
        timing on
        exists {name} "a b"
        connect nowhere
        use ""
        onebox
        set "a
        exit
        get {name} "not run"
    """
    done = tool.process("shell", stdin=script, status=1)
    lines = done.lines
    assert lines[:4] == ["temp", "other", "stored, 2 bytes", r"\x00\n"]
    assert "Usage: pegasus-green scan" in done.out
    assert "Rows: get set del" in done.out
    assert lines[-1] == "yes"
    assert "error: table other has no such row" in done.err
    assert " ms\n" in done.err
    assert "cluster 'nowhere' is not in" in done.err
    assert "run pegasus-green onebox" in done.err
    assert "--table is empty" in done.err
    assert "a quote is not closed" in done.err
    assert "not run" not in done.err + done.out
    stopped = tool.process("shell", "-e", stdin="get nobody a\nuse\n", status=1)
    assert stopped.out == ""


def test_completion_of_commands_tables_and_options(tool):
    app = App(Settings(meta=tool.metas[0]), known_tables=["temp", "users"])
    shell = Shell(app, make_program(), timing=False, stop=False)
    app.known_tables = ["temp", "users"]

    def completed(text):
        return [found for found, _, _ in shell.completions(text)]

    assert completed("sca") == ["scan"]
    assert completed("use us") == ["users"]
    assert completed("drop te") == ["temp"]
    assert completed("get --table u") == ["users"]
    assert "--hash-filter" in completed("scan --hash")
    assert completed("meta-level st") == ["stopped", "steady"]
    assert completed('get "') == completed("nothing here") == []
    assert "shell" not in completed("")


def test_ctrl_c_ends_a_shell_that_reads_from_a_pipe(tool, capfd, name):
    # Without a terminal, top prints one sample after the interval.
    lines = f"set {name} a 1\ntop --interval 60\nset {name} b 2\n"
    process = tool.start("shell", stdin=subprocess.PIPE)
    process.stdin.write(lines.encode())
    process.stdin.flush()
    assert process.stdout.readline() == b"stored, 1 byte\n"
    gevent.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, b"interrupted\n")
    assert b"stored" not in out
    assert tool.run(capfd, "exists", name, "b", status=1).out == "no\n"


def test_a_terminal_has_a_prompt_history_and_completion(tool, name, tmp_path):
    tool.environment["XDG_STATE_HOME"] = str(tmp_path)

    def talk(terminal):
        terminal.wait_for("temp>")
        terminal.send(f"set {name} a 1\r")
        terminal.wait_for("stored, 1 byte")
        terminal.wait_for(" ms")
        terminal.wait_for("temp>")
        terminal.send("meta-l\t")
        terminal.wait_for("evel")  # what completion adds
        terminal.send("\r")
        terminal.wait_for("steady\r\n")
        terminal.wait_for("temp>")
        terminal.send("\x03")
        terminal.wait_for("temp>")
        terminal.send("use other\r")
        terminal.wait_for("other>")
        terminal.send("\x04")

    try:
        done = tool.terminal("shell", talk=talk)
    finally:
        del tool.environment["XDG_STATE_HOME"]
    assert done.status == 0, done
    history = tmp_path / "pegasus-green" / "history"
    assert f"+set {name} a 1" in history.read_text()
    assert os.stat(history).st_mode & 0o077 == 0
    assert time.time() - history.stat().st_mtime < 3600
