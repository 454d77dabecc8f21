"""The program of the extra ``cli``: a group whose commands are imported when they are used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
import gevent

from .._version import __version__
from .frame import App, run, shared_options
from .statuses import EXIT_STATUSES

# Sections of the help; in each, the module of each command and its name there.
SECTIONS: dict[str, dict[str, str]] = {
    "Rows": {
        "get": "data:get",
        "set": "data:set_",
        "del": "data:delete",
        "exists": "data:exists",
        "ttl": "data:ttl",
        "touch": "data:touch",
        "incr": "data:incr",
        "cas": "data:cas",
        "mget": "multi:mget",
        "mset": "multi:mset",
        "mdel": "multi:mdel",
        "mutate": "multi:mutate",
        "keys": "scans:keys",
        "scan": "scans:scan",
        "count": "scans:count",
    },
    "Many rows": {
        "export": "bulk.commands:export",
        "import": "bulk.commands:import_",
        "copy": "bulk.commands:copy",
        "clear": "bulk.commands:clear",
    },
    "Tables": {
        "tables": "tables:tables",
        "table": "tables:table",
        "create": "tables:create",
        "drop": "tables:drop",
        "recall": "tables:recall",
        "rename": "tables:rename",
        "envs": "tables:envs",
        "replicas": "tables:replicas",
        "split": "tables:split",
        "compact": "tables:compact",
        "bulk-load": "servers:bulk_load",
        "backups": "servers:backups",
    },
    "Cluster": {
        "health": "tables:health",
        "nodes": "servers:nodes",
        "cluster": "servers:cluster",
        "meta-level": "servers:meta_level",
        "disks": "servers:disks",
        "remote": "servers:remote",
        "server-info": "servers:server_info",
        "server-stat": "servers:server_stat",
        "config": "servers:config",
        "balance": "servers:balance",
        "propose": "servers:propose",
        "lost": "servers:lost",
        "hash": "servers:hash_",
        "hot-keys": "servers:hot_keys",
    },
    "More": {
        "shell": "shell:shell",
        "top": "top:top",
        "doctor": "doctor:doctor",
        "console": "console:console",
        "bench": "passing:bench",
        "onebox": "passing:onebox",
    },
}
COMMANDS = {name: place for section in SECTIONS.values() for name, place in section.items()}
HELP = f"""Show and change the rows, tables and servers of a Pegasus cluster.

Give the cluster with --meta, --url or --cluster (before or after the command), with the environment variable
PEGASUS_URL, or as "default" in ~/.config/pegasus-green/config.toml.

Keys and values are text: UTF-8, with \\xNN for other bytes and \\\\ for a backslash. With --keys and --values they can
be hex or base64. The output uses the same form as the input.

{EXIT_STATUSES}"""


def command_named(name: str) -> click.Command:
    """Import a command of ``COMMANDS``."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(f"pegasus_green.cli.{module}"), attribute)
    assert isinstance(found, click.Command)
    return found


class Program(click.Group):
    """The group of all commands."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if the name is unknown."""
        return command_named(cmd_name) if cmd_name in COMMANDS else None

    def sections(self) -> list[tuple[str, list[str]]]:
        """Return the names of the commands by section."""
        return [(title, list(names)) for title, names in SECTIONS.items()]

    def summaries(self) -> list[tuple[str, str]]:
        """Return each command with its first sentence."""
        return [(name, command_named(name).get_short_help_str(90)) for name in COMMANDS]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command. The error for an unknown one suggests similar names."""
        if args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 3)
            hint = f"; did you mean {', '.join(near)}?" if near else "; pegasus-green --help lists the commands"
            raise click.UsageError(f"unknown command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section."""
        for title, names in SECTIONS.items():
            rows = []
            for name in names:
                found = self.get_command(ctx, name)
                if found is not None and not found.hidden:
                    rows.append((name, found.get_short_help_str(90)))
            with formatter.section(title):
                formatter.write_dl(rows)


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"pegasus_green {__version__}")
        ctx.exit()


def make_program() -> Program:
    """Return the group with its options."""
    version = click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
    )
    return Program(
        name="pegasus-green",
        help=HELP,
        params=[*shared_options(), version],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
        subcommand_metavar="COMMAND [ARGUMENT]...",
    )


def main(words: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    app, program = App(), make_program()
    # Answers the completion scripts of shells; returns if this is not a completion.
    program._main_shell_completion({"obj": app}, "pegasus-green", "_PEGASUS_GREEN_COMPLETE")
    hub = gevent.get_hub()
    told = hub.NOT_ERROR
    # Ctrl-C is reported in one word. The hub would print the exception's name and the time first.
    hub.NOT_ERROR = (*told, KeyboardInterrupt)
    try:
        return run(program, words, app)
    finally:
        app.close()
        hub.NOT_ERROR = told
