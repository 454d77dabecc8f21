"""``onebox`` and ``bench`` in the list of the other commands; each has options of its own."""

from __future__ import annotations

import click

from . import light
from .frame import App, pass_app

_SETTINGS = {"ignore_unknown_options": True, "help_option_names": []}


def _given(app: App) -> list[str]:
    """Return what the words before the command said, as options."""
    found = app.settings
    if not (found.meta or found.url or found.cluster or found.table):
        return []
    words = ["--meta", ",".join(app.metas)]
    return [*words, "--table", app.table_name]


@click.command("onebox", context_settings=_SETTINGS)
@click.argument("words", nargs=-1, metavar="[OPTION]...", type=click.UNPROCESSED)
def onebox(words: tuple[str, ...]) -> int:
    """Serve an embedded cluster."""
    return light(["onebox", *words])


@click.command("bench", context_settings=_SETTINGS)
@click.argument("words", nargs=-1, metavar="[OPTION]...", type=click.UNPROCESSED)
@pass_app
def bench(app: App, words: tuple[str, ...]) -> int:
    """Load a cluster with calls from many greenlets."""
    return light(["bench", *_given(app), *words])
