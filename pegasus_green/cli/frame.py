"""Common parts of all commands: options, the client, confirmation, errors and exit statuses."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..errors import InvalidArgument, PegasusError, TableNotFound
from ..model import Filter
from .config import EMPTY, cluster_names, find_place
from .output import FORMATS, Output, PipeClosed, wants_color
from .statuses import INTERRUPTED, NO, OK, PARTLY, USAGE, status_of
from .text import CODINGS, parse_duration, parse_size

if TYPE_CHECKING:
    from ..client import Client, Table

F = TypeVar("F", bound=Callable[..., Any])


class No(Exception):
    """The answer is no: exit status 1, with a message for people; "": no message."""


@dataclass(frozen=True)
class Settings:
    """The values of the shared options; None: not given."""

    meta: str | None = None
    url: str | None = None
    cluster: str | None = None
    config: str | None = None
    table: str | None = None
    timeout: float | None = None
    output: str | None = None
    keys: str | None = None
    values: str | None = None
    color: str | None = None
    yes: bool | None = None


@dataclass
class App:
    """The context of a command.

    Attributes:
        settings: The shared options.
        clients: Open clients by meta servers and options, shared with a shell that runs the command.
        in_shell: Whether a shell runs the command.
        known_tables: Table names for completion; None: unknown.
    """

    settings: Settings = field(default_factory=Settings)
    clients: dict[Any, Client] = field(default_factory=dict)
    in_shell: bool = False
    known_tables: list[str] | None = None
    _out: Output | None = None

    def child(self) -> App:
        """Return the context of a command in the shell: the same clients, and its own options."""
        return App(self.settings, self.clients, in_shell=True, known_tables=self.known_tables)

    def set(self, name: str, found: Any) -> None:
        """Set a shared option.

        Raises:
            UsageError: The value is empty, for example because "$TABLE" is unset in a script, or another option names a
                cluster already.
        """
        if found is None or found is False:
            return
        if found == "":
            raise click.UsageError(EMPTY.format(name))
        if name in ("meta", "url", "cluster"):
            # It replaces the option of the shell, or the one before the command.
            others = {other: None for other in ("meta", "url", "cluster") if other != name}
            if not self.in_shell and any(getattr(self.settings, other) for other in others):
                raise click.UsageError("--meta, --url and --cluster each name a cluster: give only one of them")
            self.settings = replace(self.settings, **others)
        self.settings = replace(self.settings, **{name: found})

    # ------------------------------------------------------------------------------------------------------ the cluster
    def client_of(self, meta: str | None, url: str | None, cluster: str | None, **changes: Any) -> Client:
        """Return the client of a cluster; no I/O."""
        # Imported here: the import takes half of the start, and help, version and completion do not need it.
        from ..client import Client

        place = find_place(meta, url, cluster, self.settings.config)
        options = {**place.options, **changes}
        if self.settings.timeout is not None:
            options["timeout"] = self.settings.timeout
        named = (place.metas, tuple(sorted((name, repr(found)) for name, found in options.items())))
        if named not in self.clients:
            client = self.clients[named] = Client(list(place.metas), **options)
            if self.settings.timeout is not None:
                client.admin.least_timeout = 0.0  # the user has chosen the timeout
        return self.clients[named]

    @property
    def client(self) -> Client:
        """The client of the command's cluster."""
        found = self.settings
        return self.client_of(found.meta, found.url, found.cluster)

    @property
    def table_name(self) -> str:
        """The name of the command's table.

        Raises:
            UsageError: There is none.
        """
        found = self.settings
        name = found.table or find_place(found.meta, found.url, found.cluster, found.config).table
        if not name:
            raise click.UsageError("no table given: use --table NAME, or add it to the URL or to the config file")
        return name

    @property
    def table(self) -> Table[bytes]:
        """The command's table; no I/O."""
        return self.client.table(self.table_name)

    @property
    def metas(self) -> tuple[str, ...]:
        """The meta servers of the command's cluster."""
        found = self.settings
        return find_place(found.meta, found.url, found.cluster, found.config).metas

    def close(self) -> None:
        """Close the clients."""
        for client in self.clients.values():
            client.close()
        self.clients.clear()

    # ------------------------------------------------------------------------------------------------- input and output
    @property
    def out(self) -> Output:
        """The output of results."""
        if self._out is None:
            found = self.settings
            form, color = found.output or "table", wants_color(found.color or "auto")
            keys, values = CODINGS[found.keys or "text"], CODINGS[found.values or "text"]
            self._out = Output(form, keys, values, color=color)
        return self._out

    def key(self, text: str) -> bytes:
        """Return a key from its text."""
        return self.out.keys.decode(text)

    def maybe_key(self, text: str | None) -> bytes | None:
        """Return a key from its text; None for None."""
        return None if text is None else self.key(text)

    def value(self, text: str | None, path: str | None = None, name: str = "VALUE") -> bytes:
        """Return a value from its text, or from a file with raw bytes ("-": stdin).

        Raises:
            UsageError: Both are given, or neither.
        """
        if (text is None) == (path is None):
            raise click.UsageError(f"give either {name} or --file")
        if text is not None:
            return self.out.values.decode(text)
        if path == "-":
            return sys.stdin.buffer.read()
        try:
            with open(path or "", "rb") as file:
                return file.read()
        except OSError as error:
            raise click.UsageError(f"--file: {error}") from None

    def filter(self, text: str | None) -> Filter | None:
        """Parse a filter: ``prefix:user``, ``suffix:x`` or ``contains:x``.

        Raises:
            UsageError: The word before the colon is unknown, or there is no text after it, for example because a
                variable is unset: all keys would match.
        """
        if text is None:
            return None
        kind, _, pattern = text.partition(":")
        kinds = {"prefix": Filter.prefix, "suffix": Filter.postfix, "contains": Filter.anywhere}
        if not pattern or kind not in kinds:
            raise click.UsageError(f"a filter must be prefix:TEXT, suffix:TEXT or contains:TEXT, not {text!r}")
        return kinds[kind](self.key(pattern))

    def confirm(self, what: str) -> None:
        """Return if --yes is given or the user agrees.

        Args:
            what: What the command does, for example "drops table temp".

        Raises:
            UsageError: There is no terminal to ask on.
            Abort: The user does not agree.
        """
        where = f"on {','.join(self.metas)}"
        if self.settings.yes:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"this {what} {where}; nothing was done: add --yes to do it")
        click.confirm(f"This {what} {where}. Continue?", abort=True, err=True)


def pass_app(function: Callable[..., int]) -> Callable[..., int]:
    """Pass the ``App`` to a command as the first argument."""
    return click.make_pass_decorator(App, ensure=True)(function)


class Converted(click.ParamType):  # type: ignore[type-arg] # generic in newer releases
    """An option that a function of this package parses."""

    def __init__(self, name: str, convert: Callable[[str], Any]) -> None:
        """Parse with a function that raises InvalidArgument."""
        self.name, self._convert = name, convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value."""
        if not isinstance(value, str):
            return value
        try:
            return self._convert(value)
        except InvalidArgument as error:
            self.fail(str(error.args[0]), param, ctx)


DURATION = Converted("time", parse_duration)
SIZE = Converted("size", parse_size)


# Arguments of commands may have the same names as shared options.
_SHARED = "shared_"


def _take(ctx: click.Context, param: click.Parameter, found: Any) -> None:
    ctx.ensure_object(App).set(str(param.name).removeprefix(_SHARED), found)


def complete_tables(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the tables of the cluster that earlier words name; none if it does not answer within a second."""
    app = ctx.ensure_object(App)
    names = app.known_tables
    if names is None:
        try:
            names = [info.name for info in app.client.admin.list_tables(timeout=1.0)]
        except PegasusError:
            return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_clusters(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the clusters of the config file that begin with the text."""
    return [CompletionItem(name) for name in cluster_names() if name.startswith(incomplete)]


def shared_options() -> list[click.Parameter]:
    """Return the options of every command and of the program itself."""

    def option(*names: str, **settings: Any) -> click.Option:
        name = _SHARED + names[-1].removeprefix("--")
        return click.Option([*names, name], expose_value=False, callback=_take, **settings)

    codings = click.Choice(list(CODINGS))
    return [
        option("--meta", metavar="HOST:PORT,...", help="Meta servers."),
        option("--url", metavar="URL", help="pegasus://HOST:PORT,.../TABLE?timeout=2 [PEGASUS_URL]"),
        option("--cluster", metavar="NAME", help="A cluster of the config file.", shell_complete=complete_clusters),
        option(
            "--config", type=click.Path(), metavar="FILE", help="Config file [~/.config/pegasus-green/config.toml]."
        ),
        option("-t", "--table", metavar="NAME", help="The table.", shell_complete=complete_tables),
        option(
            "--timeout",
            type=DURATION,
            metavar="TIME",
            help="Time for each request [2 s for rows, 10 s for tables and servers].",
        ),
        option("-o", "--output", type=click.Choice(FORMATS), help="Form of the output [table]."),
        option("--keys", type=codings, help="Coding of keys, in input and output [text]."),
        option("--values", type=codings, help="Coding of values, in input and output [text]."),
        option("--color", type=click.Choice(["auto", "always", "never"]), help="Colours [auto]."),
        option("-y", "--yes", is_flag=True, default=None, help="Do not ask for confirmation."),
    ]


_NUMBER = re.compile(r"-\.?\d[\d.]*")


class Command(click.Command):
    """A command with its own options and the shared ones. A negative number is an argument, not an option."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Add the shared options."""
        settings["params"] = [*(settings.get("params") or []), *shared_options()]
        super().__init__(*args, **settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words; negative numbers are not options."""
        if any(map(_NUMBER.fullmatch, args)):
            # Without the numbers, an unknown option is an error. So with them, an unknown option can only be a number.
            self.make_parser(ctx).parse_args(["0" if _NUMBER.fullmatch(word) else word for word in args])
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then the shared ones."""
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                (own if param.expose_value or param.name == "help" else common).append(record)
        for title, records in (("Options", own), ("Options of every command", common)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command from a function."""
    context = {"help_option_names": ["-h", "--help"], "max_content_width": 120, **settings.pop("context_settings", {})}
    return click.command(name, cls=Command, context_settings=context, **settings)


def options(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Apply several option decorators, in the order of the help."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


# --------------------------------------------------------------------------------------------------------------- errors
def _fail(app: App, status: int, text: str, usage: str = "", **facts: Any) -> int:
    """Print an error for people, after the usage if there is one, or as JSON for scripts; return the exit status."""
    if app.settings.output in ("json", "jsonl"):
        click.echo(json.dumps({"error": text, "exit_status": status, **facts}, ensure_ascii=False), err=True)
        return status
    if usage:
        click.echo(usage, err=True)
    is_terminal = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(f"{click.style('error:', fg='red', bold=True) if is_terminal else 'error:'} {text}", err=True)
    return status


# Advice for error codes of a cluster whose message has only the code.
_HINTS = {
    "ERR_APP_EXIST": 'a table of this name exists: "pegasus-green tables" lists the tables',
    "ERR_BUSY_CREATING": "the table is being created: try again in some seconds",
    "ERR_BUSY_DROPPING": "the table is being dropped: try again in some seconds",
}


def _of_click(error: click.ClickException) -> str:
    """Return the text of a command line error. An unknown option may be meant as a key or value."""
    text = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and not error.option_name.startswith("--"):
        text += "; write -- before a key or value that begins with -, for example: get -- -key"
    return text


def _asks_for_json(words: Sequence[str]) -> bool:
    """Tell whether words that could not be parsed completely ask for JSON."""
    following = zip(words, [*words[1:], ""])
    return any(
        word in ("-ojson", "-ojsonl", "--output=json", "--output=jsonl")
        or (word in ("-o", "--output") and after in ("json", "jsonl"))
        for word, after in following
    )


def explain(app: App, error: BaseException) -> int:
    """Print an error and return the exit status.

    Raises:
        BaseException: An unexpected exception is raised again.
    """
    if isinstance(error, PipeClosed):
        if app.in_shell:
            raise error
        # The reader has closed the pipe. At exit, nothing may be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    if isinstance(error, No):
        return _fail(app, NO, str(error)) if str(error) else NO
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        click.echo("interrupted" if isinstance(error, KeyboardInterrupt) else "not done", err=True)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else NO
    if isinstance(error, click.ClickException):
        context = None if app.in_shell else getattr(error, "ctx", None)
        return _fail(app, USAGE, _of_click(error), context.get_usage() if context else "")
    if isinstance(error, PegasusError):
        facts: dict[str, Any] = {"code": error.code, "outcome_unknown": error.outcome_unknown, "table": error.table}
        error.hint = _HINTS.get(str(error.code), error.hint)
        if isinstance(error, TableNotFound):
            error.hint = '"pegasus-green tables" lists the existing tables'
        return _fail(app, status_of(error), str(error), **facts)
    if isinstance(error, OSError):
        # An error of a file: full disk, missing permission. Errors of servers are PegasusErrors.
        return _fail(app, PARTLY, str(error))
    raise error


def run(group: click.Command, words: Sequence[str], app: App, prog: str = "pegasus-green") -> int:
    """Run one command line; print errors and return the exit status."""
    try:
        with group.make_context(prog, list(words), obj=app) as ctx:
            found = group.invoke(ctx)
        return found if isinstance(found, int) else OK
    except (Exception, KeyboardInterrupt) as error:
        if app.settings.output is None and _asks_for_json(words):
            app.settings = replace(app.settings, output="json")
        return explain(app, error)
