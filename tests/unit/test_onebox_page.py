"""Test that the TOML, YAML, systemd and Docker examples of docs/onebox.md can be parsed."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from pegasus_green.cli.onebox import _options, add_arguments, read_config
from pegasus_green.onebox import Onebox

PAGE = (Path(__file__).parents[2] / "docs" / "onebox.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def options_of(words: list[str]) -> dict[str, Any]:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return _options(parser.parse_args(words))


def test_the_configuration_file_is_accepted(tmp_path: Path) -> None:
    [text] = blocks("toml")
    (tmp_path / "onebox.toml").write_text(text)
    found = read_config(str(tmp_path / "onebox.toml"))
    assert (found["tables"], found["data"]) == ({"temp": 8, "users": 16}, "/var/lib/onebox")
    box = Onebox(**options_of(["--config", str(tmp_path / "onebox.toml")]))
    assert (box.settings.failover_delay, box.limits.scan_rows) == (2.0, 1000)
    assert [server.port for server in (*box.metas, *box.servers)] == [34601, 34602, 34603, 34801, 34802, 34803]


def test_the_dockerfile_is_valid() -> None:
    [text] = blocks("dockerfile")
    steps = dict(line.split(" ", 1) for line in text.splitlines())
    assert list(steps) == ["FROM", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"]
    assert json.loads(steps["ENTRYPOINT"]) == ["python", "-m", "pegasus_green", "onebox"]
    options = options_of(json.loads(steps["CMD"]))
    assert (options["host"], options["advertise"], options["data"]) == ("0.0.0.0", "onebox", "/data")
    assert steps["EXPOSE"] == f"{options['port']} 34801-34803"
    assert options["replica_ports"] == [34801, 34802, 34803]


def test_the_systemd_unit_is_valid() -> None:
    [text] = blocks("ini")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    command = shlex.split(unit["Service"]["ExecStart"])
    assert command[:4] == ["/opt/onebox/bin/python", "-m", "pegasus_green", "onebox"]
    assert command[4:] == ["--config", "/etc/onebox.toml"]


def test_the_compose_file_is_valid() -> None:
    [text] = blocks("yaml")
    found = yaml.safe_load(text)
    assert found["services"]["onebox"]["hostname"] == "onebox"
    assert found["services"]["app"]["environment"]["PEGASUS_URL"] == "pegasus://onebox:34601/temp"
