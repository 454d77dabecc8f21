"""Test what all commands share: cluster addresses, output formats, exit statuses, errors, and the missing extra."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64encode

import pytest

from pegasus_green.cli.app import COMMANDS, command_named
from tests.pythons import ROOT


def test_the_library_works_without_the_extra():
    block = "import sys; sys.modules.update(dict.fromkeys(('click', 'rich', 'prompt_toolkit')));"
    code = f"{block} from pegasus_green.cli import main; sys.exit(main(sys.argv[1:]))"

    def run(*words):
        return subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=180, check=False
        )

    for words in (["get", "a", "b"], ["--cluster", "prod", "scan"]):
        done = run(*words)
        assert done.returncode == 2
        assert "pip install click rich prompt_toolkit" in done.stderr
    help_text = run("--help")
    assert help_text.returncode == 0
    assert "pip install click rich prompt_toolkit" in " ".join(help_text.stdout.split())
    assert "--replicas" in run("onebox", "--help").stdout
    assert "--callers" in run("bench", "--help").stdout


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("onebox", "bench")])
def test_every_command_has_a_help_with_the_shared_options(tool, capfd, name):
    text = tool.run(capfd, name, "--help").out
    found = command_named(name)
    first = (found.help or "nothing").split("\n")[0]
    assert "".join(first.split()) in "".join(text.split())
    assert "--cluster NAME" in text


def test_the_help_lists_every_command(tool):
    text = tool.process("--help").out
    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []
    assert "..." not in text.partition("\nRows:")[2]  # no summary is cut
    assert r"\xNN for other bytes and \\ for" in " ".join(text.split())
    assert tool.process("--version").out.startswith("pegasus_green ")


def test_a_config_file_names_clusters(tool, capfd, tmp_path, name):
    folder = tmp_path / "pegasus-green"
    folder.mkdir()
    metas = json.dumps(tool.metas)
    (folder / "config.toml").write_text(
        f'default = "prod"\n[clusters.prod]\nmeta = {metas}\ntable = "temp"\ntimeout = 5\n'
        f'[clusters.far]\nurl = "pegasus://127.0.0.1:1/temp"\noptions = {{ connect_timeout = 0.2 }}\n'
        f'[clusters.bad]\nmetas = "x"\n[clusters.odd]\nmeta = "h:1"\noptions = 5\n'
    )
    tool.environment = {"XDG_CONFIG_HOME": str(tmp_path), "PEGASUS_URL": ""}
    try:
        tool.run(capfd, "set", name, "a", "1")
        assert tool.process("--cluster", "prod", "get", name, "a").out == "1\n"
        refused = tool.run(capfd, "get", name, "a", "--cluster", "far", "--timeout", "0.3", "-o", "json", status=4)
        assert json.loads(refused.err)["code"] == "ERR_TIMEOUT"
        unknown = tool.run(capfd, "get", name, "a", "--cluster", "nowhere", status=2)
        assert "known: prod, far, bad, odd" in unknown.err
        assert "unknown key 'metas'" in tool.run(capfd, "get", "a", "--cluster", "bad", status=2).err
        odd = tool.run(capfd, "get", "a", "--cluster", "odd", status=2)
        assert "options must be a table of names and values, not 5" in odd.err
        both = tool.run(capfd, "get", "a", "--cluster", "prod", "--meta", "h:1", status=2)
        assert "give only one of them" in both.err
        (folder / "config.toml").write_text("nonsense")
        assert "cannot be read" in tool.run(capfd, "get", "a", status=2).err
        (folder / "config.toml").unlink()
        assert "no cluster given" in tool.run(capfd, "get", "a", status=2).err
    finally:
        tool.environment = {}


def test_output_formats(tool, capfd, name):
    tool.run(capfd, "mset", name, "a", r"\x00 1", "b", 'x,"y"')
    rows = [{"sort_key": "a", "value": r"\x00 1"}, {"sort_key": "b", "value": 'x,"y"'}]
    assert tool.run(capfd, "scan", name, "-o", "json").json == rows
    assert [json.loads(line) for line in tool.run(capfd, "scan", name, "-o", "jsonl").lines] == rows
    assert tool.run(capfd, "scan", name, "-o", "csv").lines == ["sort_key,value", r"a,\x00 1", 'b,"x,""y"""']
    assert tool.run(capfd, "scan", name).lines == ["SORT KEY  VALUE", r"a         \x00 1", 'b         x,"y"']
    assert tool.run(capfd, "scan", name, "-o", "raw").out == 'a\t\x00 1\nb\tx,"y"\n'
    assert tool.run(capfd, "get", name, "a", "-o", "raw").out == "\x00 1"
    assert tool.run(capfd, "scan", name, "--values", "hex", "-o", "csv").lines[1] == "a,002031"
    coded_name = b64encode(name.encode()).decode()
    coded = tool.run(capfd, "scan", coded_name, "--keys", "base64", "--values", "base64", "-o", "csv").lines[1]
    assert coded == "YQ==,ACAx"
    colored = tool.run(capfd, "scan", name, "--color", "always").out
    assert "\x1b[1m" in colored
    assert tool.run(capfd, "scan", "nobody", "-o", "json").json == []


def test_errors_and_exit_statuses(tool, capfd, name):
    assert "no such row" in tool.run(capfd, "get", name, "a", status=1).err
    assert "Usage:" in tool.run(capfd, "get", status=2).err
    assert "did you mean scan" in tool.run(capfd, "scann", status=2).err
    missing = tool.run(capfd, "get", "a", "-t", "nosuch", status=3)
    assert "does not exist" in missing.err or "nosuch" in missing.err
    as_json = json.loads(tool.run(capfd, "get", "a", "-t", "nosuch", "-o", "json", status=3).err)
    assert (as_json["code"], as_json["exit_status"]) == ("ERR_APP_NOT_EXIST", 3)
    assert "invalid escape" in tool.run(capfd, "get", "\\d", status=2).err
    assert "not a time" in tool.run(capfd, "touch", name, "a", "soon", status=2).err
    assert "HINT: a table of this name exists" in tool.run(capfd, "create", "temp", status=3).err


@pytest.mark.parametrize("words", [["get"], ["get", "a", "--nosuch"], ["clear"], ["clear", "--all"], ["nosuch"]])
def test_an_error_is_one_object_for_scripts(tool, capfd, words):
    for form in (["-o", "json"], ["--output=jsonl"]):
        assert json.loads(tool.run(capfd, *words[:1], *form, *words[1:], status=2).err)["exit_status"] == 2


def test_a_negative_number_is_no_option(tool, capfd, name):
    assert tool.run(capfd, "incr", name, "n", "-3", "--ttl", "1h").out == "-3\n"
    tool.run(capfd, "set", name, "-1", "-2.5")
    assert tool.run(capfd, "get", name, "-1").out == "-2.5\n"
    assert tool.run(capfd, "cas", name, "-1", "-7", "--if", "int-less", "--operand", "-1", status=3).err
    assert "write -- before a key" in tool.run(capfd, "incr", name, "n", "-x", "-3", status=2).err
    assert tool.run(capfd, "get", "--", name, "-x", status=1).err


@pytest.mark.parametrize("option", ["--table", "--meta", "--url", "--cluster", "--config"])
def test_an_empty_name_never_means_the_default(tool, capfd, option):
    # Like in a script with an unset variable.
    assert f"{option} is empty" in tool.run(capfd, "clear", "--all", "--yes", option, "", status=2).err


def test_a_named_config_file_counts_before_the_environment(tool, capfd, tmp_path, name):
    path = tmp_path / "mine.toml"
    assert f"{path} does not exist" in tool.run(capfd, "get", "a", "--config", str(path), status=2).err
    path.write_text(f'default = "x"\n[clusters.x]\nmeta = {json.dumps(tool.metas)}\ntable = "other"\n')
    tool.run(capfd, "set", name, "a", "1", "--config", str(path))
    assert tool.run(capfd, "get", name, "a", "-t", "other").out == "1\n"


def test_closed_standard_files(tool):
    """Daemons and cron jobs may have none of them."""

    def close():
        for number in (0, 1, 2):
            os.close(number)

    for words, status in ((["tables"], 0), (["clear", "a"], 2), (["get", "nobody", "a"], 1)):
        process = tool.start(*words, stdin=None, stdout=None, stderr=None, preexec_fn=close)
        assert process.wait(120) == status


def test_an_interruption_is_told_in_one_line(tool, name, tmp_path):
    rows = "".join(json.dumps({"hash_key": name, "sort_key": str(at), "value": ""}) + "\n" for at in range(5000))
    path, state = tmp_path / "rows.jsonl", tmp_path / "state"
    path.write_text(rows)
    process = tool.start("import", str(path), "--state", str(state), "--rows-per-second", "10", "--quiet")
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.decode().splitlines() == [
        f"{state} has the progress: run the same command with --resume to continue",
        "interrupted",
    ]


def test_destructive_commands_ask_for_confirmation(tool, capfd, name):
    tool.run(capfd, "mset", name, "a", "1", "b", "2")
    refused = tool.process("mdel", name, "--all", status=2)
    assert f"removes all rows of hash key {name} in table temp on {tool.metas[0]}; nothing was done" in refused.err
    assert tool.run(capfd, "count", name).out == "2\n"
    assert tool.run(capfd, "mdel", name, "--all", "--yes").out == "removed 2 rows\n"


def test_shell_completion_lists_commands_tables_and_options(tool):
    tool.environment = {"_PEGASUS_GREEN_COMPLETE": "bash_complete", "COMP_WORDS": "pegasus-green sc", "COMP_CWORD": "1"}
    try:
        assert tool.process().out.split() == ["plain,scan"]
        tool.environment.update(COMP_WORDS="pegasus-green get --table ot", COMP_CWORD="3")
        assert tool.process().out.split() == ["plain,other"]
        tool.environment.update(COMP_WORDS="pegasus-green copy --to-table ot", COMP_CWORD="3")
        assert tool.process().out.split() == ["plain,other"]
        tool.environment.update(COMP_WORDS="pegasus-green import ro", COMP_CWORD="2")
        assert tool.process().out.split() == ["file,ro"]
        tool.environment.update(COMP_WORDS="pegasus-green onebox --rep", COMP_CWORD="2")
        assert tool.process().out.split() == ["plain,--replicas", "plain,--replica-ports"]
    finally:
        tool.environment = {}


def test_the_page_names_exactly_the_commands_that_exist():
    page = (ROOT / "docs" / "cli.md").read_text()
    ours, official = page.split("## Comparison with the official tools")
    assert [name for name in COMMANDS if not re.search(rf"`(pegasus-green )?{name}\b", ours)] == []
    rows = [line.strip("|").split("|")[1] for line in official.splitlines() if line.startswith("| `")]
    named = {words.split()[0] for cell in rows for words in re.findall(r"`([a-z][a-z -]*)", cell)}
    others = {"use", "connect", "help", "exit"}
    assert named - {*COMMANDS, *others} == set()


@pytest.mark.parametrize("words", [["get", "a"], ["bench"]])
def test_ctrl_c_while_the_modules_are_imported(words):
    code = (
        "import builtins, sys\n"
        "from pegasus_green.cli import main\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *others):\n"
        "    if name == 'gevent': raise KeyboardInterrupt\n"
        "    return real(name, *others)\n"
        "builtins.__import__ = interrupted\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=180, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
