"""``shell``: commands at a prompt, with history, completion and timing, or from a pipe."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from glob import escape, glob
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
import gevent
from click.shell_completion import ShellComplete

from ..errors import InvalidArgument, PegasusError
from .frame import App, command, options, pass_app, run
from .statuses import INTERRUPTED, OK, USAGE
from .threads import in_thread

if TYPE_CHECKING:
    from .app import Program

BUILTINS = {
    "use": "use TABLE: set the table of the next commands; without a name: show it",
    "connect": "connect NAME | URL | HOST:PORT,...: connect to another cluster",
    "timing": "timing on | off: show the duration of each command",
    "help": "help [COMMAND]: list the commands, or describe one",
    "exit": "exit: leave the shell; the end of the input does the same",
}
NOT_HERE = ("shell", "onebox", "bench", "console")


def split_words(line: str) -> list[str]:
    r"""Split a line into words. Quotes keep words together; a backslash has no special meaning.

    Raises:
        ValueError: A quote is not closed.
    """
    if line.lstrip().startswith("#"):
        return []
    words = shlex.shlex(line, posix=True, punctuation_chars="")
    words.whitespace_split, words.escape, words.commenters = True, "", ""
    return list(words)


def history_path() -> Path:
    """Return the path of the prompt's history file."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "pegasus-green" / "history"


class Shell:
    """A session.

    Attributes:
        status: Exit status of the first failed command; 0: none has failed.
        interrupted: Whether Ctrl-C ended the last command.
    """

    def __init__(self, app: App, program: Program, *, timing: bool, stop: bool) -> None:
        """Start with the options of the command line."""
        self.app, self.program, self.timing, self.stop = app, program, timing, stop
        self.status = OK
        self.interrupted = False
        self.app.known_tables = []

    # ------------------------------------------------------------------------------------------------------------ lines
    def run(self, line: str) -> bool:
        """Run a line; False: leave the shell."""
        try:
            words = split_words(line)
        except ValueError:
            self._note(USAGE, "error: a quote is not closed")
            return not self.stop
        if not words:
            return True
        if words[0] in ("exit", "quit"):
            return False
        began = perf_counter()
        try:
            status = self._builtin(words) if words[0] in BUILTINS else self._command(words)
        except click.UsageError as error:
            status = self._note(USAGE, f"error: {error.format_message()}")
        if self.timing:
            click.echo(click.style(f"{(perf_counter() - began) * 1000:,.1f} ms", dim=sys.stderr.isatty()), err=True)
        self.status = self.status or status
        self.interrupted = status == INTERRUPTED
        return not (self.stop and status)

    def _command(self, words: list[str]) -> int:
        if words[0] in NOT_HERE:
            return self._note(USAGE, f"error: {words[0]} is not a command of the shell: run pegasus-green {words[0]}")
        return run(self.program, words, self.app.child())

    def _note(self, status: int, text: str) -> int:
        click.echo(text, err=True)
        self.status = self.status or status
        return status

    def _builtin(self, words: list[str]) -> int:
        name, rest = words[0], words[1:]
        if name == "use":
            if len(rest) > 1:
                return self._note(USAGE, "error: use takes one table")
            if rest:
                self.app.set("table", rest[0])
                return OK
            click.echo(self.app.table_name)
            return OK
        if name == "connect":
            return self._connect(rest)
        if name == "timing":
            if rest not in (["on"], ["off"]):
                return self._note(USAGE, "error: write timing on or timing off")
            self.timing = rest == ["on"]
            return OK
        return self._help(rest)

    def _connect(self, rest: list[str]) -> int:
        if len(rest) != 1:
            return self._note(USAGE, f"error: {BUILTINS['connect']}")
        kind = "url" if "://" in rest[0] else "meta" if ":" in rest[0] else "cluster"
        before, self.app.in_shell = self.app.settings, True
        self.app.set(kind, rest[0])
        try:
            metas = self.app.metas
        except (PegasusError, InvalidArgument) as error:
            self.app.settings = before
            return self._note(USAGE, f"error: {error}")
        click.echo(f"connected to {','.join(metas)}", err=True)
        return OK

    def _help(self, rest: list[str]) -> int:
        if rest and rest[0] in BUILTINS:
            click.echo(BUILTINS[rest[0]])
            return OK
        if rest:
            return self._command([*rest[:1], "--help"])
        for title, names in self.program.sections():
            click.echo(f"{title}: {' '.join(name for name in names if name not in NOT_HERE)}")
        click.echo(f"Here: {' '.join(BUILTINS)}")
        return OK

    def learn_tables(self) -> None:
        """Read the tables' names, for completion."""
        try:
            self.app.known_tables = [info.name for info in self.app.client.admin.list_tables(timeout=2.0)]
        except PegasusError:
            pass  # then there are no completions

    # ------------------------------------------------------------------------------------------------------ completion
    def completions(self, text: str) -> Iterator[tuple[str, str, int]]:
        """Yield completions of the last word of a text, with a description, and the length of the word."""
        try:
            words = split_words(text)
        except ValueError:
            return
        last = "" if not words or text[-1:].isspace() else words.pop()
        if not words:
            for name, summary in [*self.program.summaries(), *BUILTINS.items()]:
                if name.startswith(last) and name not in NOT_HERE:
                    yield name, summary, len(last)
        elif words[0] == "use":
            for name in self.app.known_tables or ():
                if name.startswith(last):
                    yield name, "", len(last)
        elif words[0] in self.program.list_commands(click.Context(self.program)):
            complete = ShellComplete(self.program, {"obj": self.app.child()}, "pegasus-green", "")
            for item in complete.get_completions(words, last):
                if item.type in ("file", "dir"):
                    yield from ((name, "", len(last)) for name in sorted(glob(f"{escape(last)}*")))
                else:
                    yield item.value, item.help or "", len(last)

    # ------------------------------------------------------------------------------------------------------------ input
    def prompt_text(self) -> str:
        """Return the prompt: cluster and table."""
        found = self.app.settings
        try:
            place = found.cluster or ",".join(self.app.metas)
        except InvalidArgument:
            return "pegasus-green> "
        try:
            return f"{place}/{self.app.table_name}> "
        except click.UsageError:
            return f"{place}> "

    def from_terminal(self) -> None:
        """Read lines at a prompt until the end."""
        ask = _prompt(self)
        click.echo('Commands: "help". Tab completes, the arrow keys show earlier lines, Ctrl-D leaves.', err=True)
        learning = gevent.spawn(self.learn_tables)
        try:
            while True:
                try:
                    # In a thread, so that the hub serves the client's connections while it waits for the user.
                    line = in_thread(ask, self.prompt_text())
                except EOFError:
                    return
                except KeyboardInterrupt:
                    continue
                try:
                    if not self.run(line):
                        return
                except KeyboardInterrupt:
                    self.status = self.status or INTERRUPTED
                if learning.ready():
                    learning = gevent.spawn(self.learn_tables)
        finally:
            learning.kill(block=False)

    def from_pipe(self) -> None:
        """Read lines from stdin until its end, or until Ctrl-C."""
        while line := in_thread(sys.stdin.readline):
            if not self.run(line):
                return
            if self.interrupted:
                self.status = INTERRUPTED
                return


def _prompt(shell: Shell) -> Callable[[str], str]:
    """Return a function that reads a line, in any thread."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class Words(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            del complete_event
            for text, summary, length in shell.completions(document.text_before_cursor):
                yield Completion(text, start_position=-length, display_meta=summary)

    path = history_path()
    history: History
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        history = FileHistory(str(path))
    except OSError:
        history = InMemoryHistory()
    session: Any = PromptSession(history=history, completer=Words(), complete_while_typing=False)

    def ask(text: str) -> str:
        return str(session.prompt(text, handle_sigint=False))

    return ask


@command("shell")
@options(
    click.option("--timing/--no-timing", default=None, help="Show the duration of each command [at a prompt]."),
    click.option("-e", "--stop-on-error", is_flag=True, help="Stop at the first command that fails."),
)
@pass_app
def shell(app: App, timing: bool | None, stop_on_error: bool) -> int:
    r"""Run commands from a prompt or a pipe.

    The options given here apply to all commands. "use TABLE" sets the table. Words are separated by spaces; quotes keep
    them together. A backslash belongs to the key or value: \x00 is the byte 0. Lines that begin with # are ignored. The
    exit status is that of the first command that failed.
    """
    from .app import make_program

    is_terminal = sys.stdin.isatty()
    session = Shell(app, make_program(), timing=is_terminal if timing is None else timing, stop=stop_on_error)
    if is_terminal:
        session.from_terminal()
        return OK
    session.from_pipe()
    return session.status
