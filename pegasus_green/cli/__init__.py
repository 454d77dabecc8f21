"""The command line: ``python -m pegasus_green COMMAND`` or ``pegasus-green COMMAND``.

A command is a module with ``add_arguments(parser)`` and ``run(arguments) -> int``, and a row in ``COMMANDS``; only the
module of the command that was asked for is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from .._version import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "onebox": ("pegasus_green.cli.onebox", "serve an embedded cluster"),
    "bench": ("pegasus_green.cli.bench", "load a cluster with calls from many greenlets"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv: The arguments behind the program's name; None: the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="pegasus-green", description="A gevent client for Apache Pegasus.")
    parser.add_argument("--version", action="version", version=f"pegasus_green {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == wanted:
            import_module(module).add_arguments(command)
    arguments = parser.parse_args(words)
    status: int = import_module(COMMANDS[arguments.command][0]).run(arguments)
    return status
