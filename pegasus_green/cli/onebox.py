"""``onebox``: serve an embedded cluster until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from functools import partial
from typing import Any

import gevent

from ..admin.base import new_name_of
from ..errors import InvalidArgument
from ..onebox import Limits, Settings
from ..onebox.runtime.settings import MAX_PARTITIONS, RELEASES

PARENT_CHECK = 1.0


def _table(text: str) -> tuple[str, int]:
    name, colon, count = text.rpartition(":")
    if not colon or not count.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:PARTITIONS")
    try:
        name = new_name_of(name)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 1 <= int(count) <= MAX_PARTITIONS:
        raise argparse.ArgumentTypeError(f"{name} must have 1 to {MAX_PARTITIONS} partitions, not {count}")
    return name, int(count)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def _setting(kind: type[Limits | Settings], text: str) -> tuple[str, Any]:
    name, _, word = text.partition("=")
    if name not in kind.__dataclass_fields__:
        raise argparse.ArgumentTypeError(f"there is no {name!r}; there are {_names(kind)}")
    default = getattr(kind, name)
    try:
        value = json.loads(word)
    except ValueError:
        value = ""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif default is None:
        fits, wanted = is_number or value is None, "null or a number from 0 on"
    else:
        fits, wanted = is_number, "a number from 0 on"
    if not fits:
        raise argparse.ArgumentTypeError(f"{name} must be {wanted}, not {word!r}")
    return name, value


def _names(kind: type[Limits | Settings]) -> str:
    return ", ".join(kind.__dataclass_fields__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--host", default="127.0.0.1", help="IPv4 address to listen on [%(default)s]")
    parser.add_argument(
        "--port", type=_port, default=34601, help="port of the first meta server, 0: a free one [%(default)s]"
    )
    parser.add_argument("--metas", type=int, default=1, metavar="N", help="meta servers [%(default)s]")
    parser.add_argument("--replicas", type=int, default=3, metavar="N", help="replica servers [%(default)s]")
    parser.add_argument(
        "--table",
        type=_table,
        action="append",
        metavar="NAME:PARTITIONS",
        help=f"a table, repeatable; at most {MAX_PARTITIONS} partitions of all together [temp:8]",
    )
    parser.add_argument("--no-table", action="store_true", help="start without any table")
    parser.add_argument(
        "--release", choices=RELEASES, default="2.6", help="2.6: with host_port fields, 2.5: without [%(default)s]"
    )
    parser.add_argument(
        "--control-port", type=_port, metavar="PORT", help="port for fault control, 0: a free one [none]"
    )
    parser.add_argument("--advertise", metavar="NAME", help="host name that clients are told [the address]")
    parser.add_argument("--seed", type=int, help="for whatever is random [random]")
    for option, kind, what in (
        ("--set", Settings, "a delay or limit"),
        ("--limit", Limits, "a limit of the storage engine"),
    ):
        parser.add_argument(
            option,
            type=partial(_setting, kind),
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"{what}, repeatable: {_names(kind)}",
        )
    # For OneboxProcess: ends when the other end of stdin does, or the parent process.
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from ..onebox import Onebox
    from ..onebox.control.port import ControlServer

    tables = dict(arguments.table) if arguments.table else {} if arguments.no_table else None
    names = [name for name, _ in arguments.table or ()]
    try:
        if len(set(names)) < len(names):
            raise ValueError(f"--table names a table twice: {', '.join(names)}")
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
