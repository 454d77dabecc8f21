"""``console``: serve web pages about the cluster."""

from __future__ import annotations

import re
import signal

import click
import gevent
from gevent.event import Event

from ..console.server import ConsoleServer, is_loopback, is_wildcard
from .frame import App, command, options, pass_app
from .statuses import OK


def _listen(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]+)):(\d{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT, for example 127.0.0.1:8080 or [::1]:8080")
    return found[1] or found[2], int(found[3])


@command("console")
@options(
    click.option(
        "--listen",
        callback=_listen,
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="Address to listen on; port 0: a free one [127.0.0.1:8080].",
    ),
    click.option(
        "--host", "hosts", multiple=True, metavar="NAME", help="Another host name that browsers may use; repeatable."
    ),
    click.option("--write", is_flag=True, help="Allow changes and removals of rows."),
)
@pass_app
def console(app: App, listen: tuple[str, int], hosts: tuple[str, ...], write: bool) -> int:
    """Serve web pages about the cluster, its tables and rows until Ctrl-C.

    The console has no users of its own: everyone who can reach it can read every table, and with --write change it.
    """
    host, port = listen
    if is_wildcard(host) and not hosts:
        raise click.UsageError(
            f"--listen {host} means all addresses of this machine: give the host name that browsers use with"
            " --host NAME"
        )
    server = ConsoleServer(app.client, host, port, write=write, hosts=hosts)
    ended = Event()
    watchers = [gevent.signal_handler(number, ended.set) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        try:
            server.start()
        except OSError as error:
            raise click.UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        if not is_loopback(host):
            what = "read and change" if write else "read"
            click.echo(f"warning: everyone who can reach {host}:{port} can {what} all tables", err=True)
        click.echo(f"console {server.url}")
        ended.wait()
    finally:
        server.stop()
        for watcher in watchers:
            watcher.cancel()
    return OK
