"""What all commands share: options, the client, confirmation, errors and exit statuses."""

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

from ..errors import (
    ConnectFailed,
    ConnectionLost,
    InvalidArgument,
    MetaUnreachable,
    PegasusError,
    RequestTimeout,
    TableNotFound,
)
from ..model import Filter
from .config import cluster_names, find_place
from .output import FORMATS, Output, PipeClosed, wants_color
from .text import CODINGS, parse_duration, parse_size

if TYPE_CHECKING:
    from ..client import Client, Table

OK, NO, USAGE, REFUSED, UNREACHABLE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_STATUSES = """\b
Exit status:
  0  done
  1  the answer is no: no such row, check not passed, not healthy
  2  the command line is wrong; nothing was sent
  3  refused by the cluster
  4  the cluster or a server is not reached in time
  5  some rows failed; the state file, if there is one, is kept
  130  interrupted"""

F = TypeVar("F", bound=Callable[..., Any])


class No(Exception):
    """The answer is no: exit status 1, with what a person is to be told; "" for nothing."""


@dataclass(frozen=True)
class Settings:
    """What the shared options say; None: not given."""

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
    """What a command works with.

    Attributes:
        settings: The shared options.
        clients: Open clients by meta servers and options, shared with the shell that runs the command.
        in_shell: Whether a shell runs the command.
        known_tables: Names for completion; None: they have to be asked for.
    """

    settings: Settings = field(default_factory=Settings)
    clients: dict[Any, Client] = field(default_factory=dict)
    in_shell: bool = False
    known_tables: list[str] | None = None
    _out: Output | None = None

    def child(self) -> App:
        """Return one for a command of the shell: the same clients, and options of its own."""
        return App(self.settings, self.clients, in_shell=True, known_tables=self.known_tables)

    def set(self, name: str, found: Any) -> None:
        """Take a shared option.

        Raises:
            UsageError: It is empty, as "$TABLE" of a script is that nobody has set, or names a second cluster.
        """
        if found is None or found is False:
            return
        if found == "":
            # Another table or cluster must not be meant by mistake.
            raise click.UsageError(f"--{name} is empty: name one, or leave the option out")
        if name in ("meta", "url", "cluster"):
            # A later one replaces what the shell or the words before the command said.
            others = {other: None for other in ("meta", "url", "cluster") if other != name}
            if not self.in_shell and any(getattr(self.settings, other) for other in others):
                raise click.UsageError("--meta, --url and --cluster name a cluster each: give one of them")
            self.settings = replace(self.settings, **others)
        self.settings = replace(self.settings, **{name: found})

    # ------------------------------------------------------------------------------------------------------ the cluster
    def client_of(self, meta: str | None, url: str | None, cluster: str | None, **changes: Any) -> Client:
        """Return the client of a cluster; no I/O."""
        # Half of the time that the tool needs to start; help, version and completion do without.
        from ..client import Client

        place = find_place(meta, url, cluster, self.settings.config)
        options = {**place.options, **changes}
        if self.settings.timeout is not None:
            options["timeout"] = self.settings.timeout
        named = (place.metas, tuple(sorted((name, repr(found)) for name, found in options.items())))
        if named not in self.clients:
            self.clients[named] = Client(list(place.metas), **options)
        return self.clients[named]

    @property
    def client(self) -> Client:
        """The client of the cluster that is meant."""
        found = self.settings
        return self.client_of(found.meta, found.url, found.cluster)

    @property
    def table_name(self) -> str:
        """The table that is meant.

        Raises:
            UsageError: None is named.
        """
        found = self.settings
        name = found.table or find_place(found.meta, found.url, found.cluster, found.config).table
        if not name:
            raise click.UsageError("no table is named: give --table NAME, or name one in the URL or the config file")
        return name

    @property
    def table(self) -> Table[bytes]:
        """The table that is meant; no I/O."""
        return self.client.table(self.table_name)

    @property
    def metas(self) -> tuple[str, ...]:
        """The meta servers that are meant."""
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
        """Where results go."""
        if self._out is None:
            found = self.settings
            form, color = found.output or "table", wants_color(found.color or "auto")
            keys, values = CODINGS[found.keys or "text"], CODINGS[found.values or "text"]
            self._out = Output(form, keys, values, color=color)
        return self._out

    def key(self, text: str) -> bytes:
        """Return a key that was given as text."""
        return self.out.keys.decode(text)

    def maybe_key(self, text: str | None) -> bytes | None:
        """Return a key that may not have been given."""
        return None if text is None else self.key(text)

    def value(self, text: str | None, path: str | None = None, name: str = "VALUE") -> bytes:
        """Return a value that was given as text, or as a file of raw bytes ("-": stdin).

        Raises:
            UsageError: Both were given, or none.
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
        """Return the filter of ``prefix:user``, ``suffix:x`` or ``contains:x``.

        Raises:
            UsageError: Another word before the colon.
        """
        if text is None:
            return None
        kind, colon, pattern = text.partition(":")
        kinds = {"prefix": Filter.prefix, "suffix": Filter.postfix, "contains": Filter.anywhere}
        if not colon or kind not in kinds:
            raise click.UsageError(f"a filter is prefix:TEXT, suffix:TEXT or contains:TEXT, not {text!r}")
        return kinds[kind](self.key(pattern))

    def confirm(self, what: str) -> None:
        """Go on only when --yes was given or a person agrees.

        Args:
            what: What the command does, as "drops table temp".

        Raises:
            UsageError: Nobody can be asked.
            Abort: The person does not agree.
        """
        where = f"on {','.join(self.metas)}"
        if self.settings.yes:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"this {what} {where}; nothing was done: give --yes to do it")
        click.confirm(f"This {what} {where}. Do it?", abort=True, err=True)


def pass_app(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command its ``App`` as the first argument."""
    return click.make_pass_decorator(App, ensure=True)(function)


class Converted(click.ParamType):  # type: ignore[type-arg] # generic in newer releases
    """An option that a function of this package reads."""

    def __init__(self, name: str, convert: Callable[[str], Any]) -> None:
        """Read texts with a function that raises InvalidArgument."""
        self.name, self._convert = name, convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the text means."""
        if not isinstance(value, str):
            return value
        try:
            return self._convert(value)
        except InvalidArgument as error:
            self.fail(str(error.args[0]), param, ctx)


DURATION = Converted("time", parse_duration)
SIZE = Converted("size", parse_size)


# Arguments of commands may have the names of shared options.
_SHARED = "shared_"


def _take(ctx: click.Context, param: click.Parameter, found: Any) -> None:
    ctx.ensure_object(App).set(str(param.name).removeprefix(_SHARED), found)


def complete_tables(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ask the cluster that the words before name, for a second at most; silent when that fails."""
    app = ctx.ensure_object(App)
    names = app.known_tables
    if names is None:
        try:
            names = [info.name for info in app.client.admin.list_tables(timeout=1.0)]
        except PegasusError:
            return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_clusters(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the clusters of the config file that begin so."""
    return [CompletionItem(name) for name in cluster_names() if name.startswith(incomplete)]


def shared_options() -> list[click.Parameter]:
    """Return the options that every command has, and the program itself."""

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
        option("--timeout", type=DURATION, metavar="TIME", help="Time for each request [2 s]."),
        option("-o", "--output", type=click.Choice(FORMATS), help="Form of the output [table]."),
        option("--keys", type=codings, help="How keys are written, in and out [text]."),
        option("--values", type=codings, help="How values are written, in and out [text]."),
        option("--color", type=click.Choice(["auto", "always", "never"]), help="Colours [auto]."),
        option("-y", "--yes", is_flag=True, default=None, help="Do not ask before something is destroyed."),
    ]


_NUMBER = re.compile(r"-\.?\d[\d.]*")


class Command(click.Command):
    """A command with the shared options behind its own; a negative number is an argument and no option."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Add the shared options."""
        settings["params"] = [*(settings.get("params") or []), *shared_options()]
        super().__init__(*args, **settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words, among which negative numbers are no options."""
        if any(map(_NUMBER.fullmatch, args)):
            # Without the numbers an unknown option is refused; with them, what looks like one can only be a number.
            self.make_parser(ctx).parse_args(["0" if _NUMBER.fullmatch(word) else word for word in args])
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, the shared ones apart."""
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
    """Make a command of a function."""
    context = {"help_option_names": ["-h", "--help"], "max_content_width": 120, **settings.pop("context_settings", {})}
    return click.command(name, cls=Command, context_settings=context, **settings)


def options(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Apply several option decorators, the first one first in the help."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


# --------------------------------------------------------------------------------------------------------------- errors
def _fail(app: App, status: int, text: str, usage: str = "", **facts: Any) -> int:
    """Print an error for people, below the usage if there is one, or as JSON for scripts; return the exit status."""
    if app.settings.output in ("json", "jsonl"):
        click.echo(json.dumps({"error": text, "exit_status": status, **facts}, ensure_ascii=False), err=True)
        return status
    if usage:
        click.echo(usage, err=True)
    is_terminal = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(f"{click.style('error:', fg='red', bold=True) if is_terminal else 'error:'} {text}", err=True)
    return status


# What to do about answers of a cluster whose text names only the code.
_HINTS = {
    "ERR_APP_EXIST": "a table of this name is there already: pegasus-green tables lists them",
    "ERR_BUSY_CREATING": "the table is being created: try again in some seconds",
    "ERR_BUSY_DROPPING": "the table is being dropped: try again in some seconds",
}


def _of_click(error: click.ClickException) -> str:
    """Return the text of an error of the command line; an unknown option may be meant as a key or value."""
    text = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and not error.option_name.startswith("--"):
        text += "; a key or value that begins with - stands behind --, as in: get -- -key"
    return text


def _asks_for_json(words: Sequence[str]) -> bool:
    """Tell whether words that could not be read as a whole ask for JSON."""
    following = zip(words, [*words[1:], ""])
    return any(
        word in ("-ojson", "-ojsonl", "--output=json", "--output=jsonl")
        or (word in ("-o", "--output") and after in ("json", "jsonl"))
        for word, after in following
    )


def _status_of(error: PegasusError) -> int:
    if isinstance(error, InvalidArgument):
        return USAGE
    if isinstance(error, (RequestTimeout, MetaUnreachable, ConnectFailed, ConnectionLost)):
        return UNREACHABLE
    return REFUSED


def explain(app: App, error: BaseException) -> int:
    """Print what went wrong and return the exit status.

    Raises:
        BaseException: What nobody expected is raised again.
    """
    if isinstance(error, PipeClosed):
        if app.in_shell:
            raise error
        # The reader has what it wanted; nothing may be flushed to it at exit.
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
            error.hint = "pegasus-green tables lists the tables that are there"
        return _fail(app, _status_of(error), str(error), **facts)
    if isinstance(error, OSError):
        # A file: a full disk, a directory without permission. What servers do is a PegasusError.
        return _fail(app, PARTLY, str(error))
    raise error


def run(group: click.Command, words: Sequence[str], app: App, prog: str = "pegasus-green") -> int:
    """Run one command line; errors are printed, and become the exit status."""
    try:
        with group.make_context(prog, list(words), obj=app) as ctx:
            found = group.invoke(ctx)
        return found if isinstance(found, int) else OK
    except (Exception, KeyboardInterrupt) as error:
        if app.settings.output is None and _asks_for_json(words):
            app.settings = replace(app.settings, output="json")
        return explain(app, error)
