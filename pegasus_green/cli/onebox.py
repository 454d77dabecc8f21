"""``onebox``: serve an embedded cluster until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import Any

import gevent

PARENT_CHECK = 1.0


def _table(text: str) -> tuple[str, int]:
    name, _, count = text.rpartition(":")
    if not name or not count.isdigit() or int(count) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:PARTITIONS")
    return name, int(count)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value) if equals else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--host", default="127.0.0.1", help="IPv4 address to listen on [%(default)s]")
    parser.add_argument(
        "--port", type=int, default=34601, help="port of the first meta server, 0: a free one [%(default)s]"
    )
    parser.add_argument("--metas", type=int, default=1, metavar="N", help="meta servers [%(default)s]")
    parser.add_argument("--replicas", type=int, default=3, metavar="N", help="replica servers [%(default)s]")
    parser.add_argument(
        "--table", type=_table, action="append", metavar="NAME:PARTITIONS", help="a table, repeatable [temp:8]"
    )
    parser.add_argument("--no-table", action="store_true", help="start without any table")
    parser.add_argument("--release", default="2.6", help="2.6: with host_port fields, 2.5: without [%(default)s]")
    parser.add_argument("--control-port", type=int, metavar="PORT", help="port for fault control, 0: a free one [none]")
    parser.add_argument("--advertise", metavar="NAME", help="host name that clients are told [the address]")
    parser.add_argument("--seed", type=int, help="for whatever is random [random]")
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a delay or limit, repeatable"
    )
    parser.add_argument(
        "--limit",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a limit of the storage engine",
    )
    # For OneboxProcess: ends when the other end of stdin does, or the parent process.
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from ..onebox import Limits, Onebox
    from ..onebox.control import ControlServer

    tables = dict(arguments.table) if arguments.table else {} if arguments.no_table else None
    try:
        box = Onebox(
            replicas=arguments.replicas,
            metas=arguments.metas,
            tables=tables,
            release=arguments.release,
            host=arguments.host,
            port=arguments.port,
            seed=arguments.seed,
            advertise=arguments.advertise,
            limits=Limits(**dict(arguments.limit)),
            **dict(arguments.set),
        )
    except (TypeError, ValueError) as error:
        print(f"onebox: {error}", file=sys.stderr)
        return 2
    # Before the ports are open: a signal at any time ends it with status 0.
    watchers = [gevent.signal_handler(number, box.stop) for number in (signal.SIGTERM, signal.SIGINT)]
    control: ControlServer | None = None
    try:
        box.start()
        if arguments.control_port is not None:
            control = ControlServer(box, arguments.host, arguments.control_port)
        if arguments.with_parent:
            gevent.spawn(_end_with_parent, box, os.getppid())
        words = ["ready", f"meta={','.join(box.meta_addresses)}"]
        if control is not None:
            words.append(f"control={control.address}")
        print(*words, flush=True)
        box.wait()
    except OSError as error:
        print(f"onebox: {error}", file=sys.stderr)
        return 1
    finally:
        box.stop()
        if control is not None:
            control.close()
        for watcher in watchers:
            watcher.cancel()
    return 0


def _end_with_parent(box: Any, parent: int) -> None:
    """Stop the onebox when stdin ends or the parent is gone; a forked child may hold the other end of stdin open."""
    watcher = gevent.get_hub().loop.io(0, 1, ref=False)
    os.set_blocking(0, False)

    def on_readable() -> None:
        try:
            ended = not os.read(0, 4096)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            watcher.stop()
            box.stop()

    watcher.start(on_readable)
    while box.running:
        gevent.sleep(PARENT_CHECK)
        if os.getppid() != parent:
            box.stop()
