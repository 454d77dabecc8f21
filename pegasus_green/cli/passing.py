"""``onebox`` and ``bench`` in the list of the other commands; each has its own options."""

from __future__ import annotations

import argparse
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from . import COMMANDS, light
from .frame import App, pass_app

_SETTINGS = {"ignore_unknown_options": True, "help_option_names": []}


def _given(app: App) -> list[str]:
    """Return the options that were given before the command."""
    given = ((name, getattr(app.settings, name)) for name in ("meta", "url", "cluster", "config", "table", "timeout"))
    return [word for name, value in given if value is not None for word in (f"--{name}", str(value))]


class _Passing(click.Command):
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the options of the command's own parser."""
        del ctx
        parser = argparse.ArgumentParser()
        import_module(COMMANDS[str(self.name)][0]).add_arguments(parser)
        known = ((name, action.help) for action in parser._actions for name in action.option_strings)
        return [CompletionItem(name, help=told) for name, told in known if name.startswith(incomplete or "--")]


@click.command("onebox", cls=_Passing, context_settings=_SETTINGS)
@click.argument("words", nargs=-1, metavar="[OPTION]...", type=click.UNPROCESSED)
def onebox(words: tuple[str, ...]) -> int:
    """Serve an embedded cluster."""
    return light(["onebox", *words])


@click.command("bench", cls=_Passing, context_settings=_SETTINGS)
@click.argument("words", nargs=-1, metavar="[OPTION]...", type=click.UNPROCESSED)
@pass_app
def bench(app: App, words: tuple[str, ...]) -> int:
    """Load a cluster with calls from many greenlets."""
    return light(["bench", *_given(app), *words])
