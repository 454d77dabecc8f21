"""The command line: ``python -m pegasus_green COMMAND`` or ``pegasus-green COMMAND``.

``onebox`` and ``bench`` need only the package: each is a module with ``add_arguments(parser)`` and ``run(arguments) ->
int``, and an entry in ``COMMANDS``. All other commands use click, are in ``app``, and need the extra ``cli``. Only the
module of the given command is imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .._version import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "onebox": ("pegasus_green.cli.onebox", "serve an embedded cluster"),
    "bench": ("pegasus_green.cli.bench", "load a cluster with calls from many greenlets"),
}
EXTRA = ("click", "rich", "prompt_toolkit", "tomli")
MISSING = f"needs the extra cli, pegasus_green[cli] (%s is not installed): pip install {' '.join(EXTRA)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv: The arguments after the program's name; None: those of the process.
    """
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # before the command began, for example during an import, or after its end
        print("interrupted", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    _open_standard_files()
    if (words and words[0] in COMMANDS) and "_PEGASUS_GREEN_COMPLETE" not in os.environ:
        return light(words)
    try:
        from .app import main as run_app

        return run_app(words)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
    wanted = next((word for word in words if not word.startswith("-")), None)
    if wanted is None:
        return light(words, f"For the other commands the program {MISSING % missing}")
    print(f"pegasus-green: error: the command {wanted} {MISSING % missing}", file=sys.stderr)
    return 2


def _open_standard_files() -> None:
    """Open stdin, stdout or stderr if the caller has closed it. Otherwise a socket would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # A new file gets the lowest free number, and the lower numbers are open here.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the process ends


def light(words: Sequence[str], epilog: str | None = None) -> int:
    """Run a command that needs no extra.

    Args:
        words: The command and its arguments.
        epilog: Last paragraph of the help.
    """
    parser = argparse.ArgumentParser(
        prog="pegasus-green", description="A gevent client for Apache Pegasus.", epilog=epilog
    )
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
