"""Remote commands: the commands of RPC_CLI_CLI_CALL on a meta or replica server, with their help texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...protocol import remote
from ..replication.cluster import Cluster
from ..runtime.clock import local_time
from ..wire.frames import Call, bare_reply
from ..wire.server import Server


class Command(NamedTuple):
    """One command. Its function takes the arguments and returns the output."""

    names: tuple[str, ...]
    about: str
    usage: str
    run: Callable[[Sequence[str]], str]

    @property
    def line(self) -> str:
        """Its line in the list of all commands."""
        return f"{'|'.join(self.names)} - {self.about}"


class Commands:
    """The commands of one server."""

    def __init__(self, box: Cluster, server: Server) -> None:
        """Add the commands for this kind of server."""
        self.box = box
        self.server = server
        self._by_name: dict[str, Command] = {}
        self.add(("help", "h", "H", "Help"), "Display help information", "[command]", self._help)
        self.add(("flush-log",), "Flush log to stderr or file", "", lambda _arguments: "Flush done.")
        self.add(("server-info",), "Query server information", "", self._info)
        self.add(("server-stat",), "Query selected figures", "", self._stat)
        if server.kind == "meta":
            self.add(("meta.live_percentage",), "Share of live nodes below which nothing changes", "", self._live)

    def add(self, names: tuple[str, ...], about: str, usage: str, run: Callable[[Sequence[str]], str]) -> None:
        """Add a command."""
        command = Command(names, about, usage, run)
        self._by_name.update(dict.fromkeys(names, command))

    def answer(self, call: Call) -> bytes:
        """Run the command of a request; return the reply frame.

        Raises:
            ProtocolError: The request cannot be decoded.
        """
        assert call.rpc is not None
        request: remote.CommandRequest = call.argument()
        return bare_reply(call.rpc, call.seqid, remote.CommandReply(self.run(request.cmd, request.arguments)).encode())

    def run(self, name: str, arguments: Sequence[str]) -> str:
        """Run a command by one of its names."""
        command = self._by_name.get(name)
        return f"unknown command '{name}'" if command is None else command.run(arguments)

    def _help(self, arguments: Sequence[str]) -> str:
        if not arguments:
            lines = {command.line: None for command in self._by_name.values()}
            return "".join(f"{line}\n" for line in lines)
        command = self._by_name.get(arguments[0])
        if command is None:
            return f"cannot find command '{arguments[0]}'"
        return f"{command.line}\n{command.names[0]} {command.usage}\n"

    def _info(self, _arguments: Sequence[str]) -> str:
        start = local_time(self.box.started)
        version = f"{self.box.release}.0"
        if not self.box.hosts:
            return f"Pegasus Server {version} (onebox) Release, Started at {start}"
        facts = {"build_type": "Release", "git_SHA": "onebox", "start_time": start, "version": version}
        return json.dumps(facts, separators=(",", ":"))

    def _stat(self, _arguments: Sequence[str]) -> str:
        figures = {"connections": len(self.server.connections), "accepted": self.server.accepted}
        figures |= {f"requests.{name}": count for name, count in sorted(self.server.requests.items())}
        return ", ".join(f"{self.server.kind}*onebox*{name}={value}" for name, value in figures.items())

    def _live(self, arguments: Sequence[str]) -> str:
        facts = {"error": "ok", "meta.live_percentage": "65"}
        if arguments:
            facts = {"error": "ERR: the onebox does not change meta.live_percentage"}
        return json.dumps(facts, indent=2)
