"""``onebox``: serve an embedded cluster until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import gevent

from ..admin.base import new_name_of
from ..errors import InvalidArgument
from ..onebox import Limits, Settings
from ..onebox.runtime.settings import MAX_PARTITIONS, RELEASES, check_value, parse_ports
from . import secured

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


def _ports(text: str) -> list[int]:
    try:
        return parse_ports(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _setting(kind: type[Limits | Settings], text: str) -> tuple[str, Any]:
    name, _, word = text.partition("=")
    try:
        value = json.loads(word)
    except ValueError:
        value = ""
    try:
        check_value(kind, name, value, word)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, value


def _names(kind: type[Limits | Settings]) -> str:
    return ", ".join(kind.__dataclass_fields__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. ``run`` sets the defaults, after it has read the configuration file."""
    parser.add_argument("--config", metavar="FILE", help="a TOML file with options; the command line overrides it")
    parser.add_argument("--host", help="IPv4 address to listen on; 0.0.0.0 needs --advertise [127.0.0.1]")
    parser.add_argument("--port", type=_port, help="port of the first meta server, 0: a free one [34601]")
    parser.add_argument("--metas", type=int, metavar="N", help="number of meta servers [1]")
    parser.add_argument("--replicas", type=int, metavar="N", help="number of replica servers [3]")
    for kind in ("meta", "replica"):
        parser.add_argument(
            f"--{kind}-ports",
            type=_ports,
            metavar="PORTS",
            help=f"the ports of all {kind} servers, one for each: 34601-34603 or 34601,34602 [free ones]",
        )
    parser.add_argument(
        "--table",
        type=_table,
        action="append",
        metavar="NAME:PARTITIONS",
        help=f"a table, repeatable; at most {MAX_PARTITIONS} partitions in all tables together [temp:8]",
    )
    parser.add_argument("--no-table", action="store_true", help="start without any table")
    parser.add_argument("--release", choices=RELEASES, help="release of the servers; 2.5 sends no host names [2.6]")
    parser.add_argument(
        "--control-port", type=_port, metavar="PORT", help="port for fault control, 0: a free one [none]"
    )
    parser.add_argument(
        "--console",
        type=_port,
        nargs="?",
        const=8080,
        metavar="PORT",
        help="serve web pages about the cluster on 127.0.0.1:PORT; without PORT: 8080; 0: a free one [no pages]",
    )
    parser.add_argument(
        "--advertise", metavar="NAME", help="host name or address that the servers send to clients [the address]"
    )
    secured.add_arguments(parser)
    parser.add_argument(
        "--data", metavar="DIR", help="keep the data in this directory, also after the end of the process [in memory]"
    )
    parser.add_argument(
        "--sync",
        action="store_true",
        default=None,
        help="with --data: fsync each write, so that it survives a loss of power",
    )
    parser.add_argument("--seed", type=int, help="seed of all random numbers [random]")
    for option, fields, what in (
        ("--set", Settings, "a delay or limit"),
        ("--limit", Limits, "a limit of the storage engine"),
    ):
        parser.add_argument(
            option,
            type=partial(_setting, fields),
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"{what}, repeatable: {_names(fields)}",
        )
    # For OneboxProcess: ends when its parent closes stdin or ends.
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)


OPTION_NAMES = (
    "host", "port", "metas", "replicas", "meta_ports", "replica_ports", "release", "control_port", "advertise",
    "data", "sync", "seed",
)  # fmt: skip
DEFAULTS: dict[str, Any] = {"host": "127.0.0.1", "release": "2.6"}
# Keys of a configuration file besides the tables [tables], [settings] and [limits].
CONFIG_KEYS: dict[str, type | tuple[type, ...]] = {
    "host": str,
    "port": int,
    "metas": int,
    "replicas": int,
    "meta-ports": (str, list),
    "replica-ports": (str, list),
    "release": str,
    "control-port": int,
    "advertise": str,
    "data": str,
    "sync": bool,
    "seed": int,
}


def read_config(path: str) -> dict[str, Any]:
    """Read a TOML file. Its keys are the names of the options, with ``-`` or ``_``.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not TOML, or has an unknown key or a wrong value; the message names the key.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise ValueError("--config needs Python 3.11 or the package tomli") from None
    with open(path, "rb") as file:
        try:
            found: dict[str, Any] = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from None
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = key.replace("_", "-")
        if name in ("tables", "settings", "limits"):
            if not isinstance(value, dict):
                raise ValueError(f"{path}: [{name}] must be a table of names and values, not {value!r}")
        elif name not in CONFIG_KEYS:
            names = ", ".join([*CONFIG_KEYS, "[tables]", "[settings]", "[limits]"])
            raise ValueError(f"{path}: unknown option {key!r}; known: {names}")
        elif not isinstance(value, CONFIG_KEYS[name]) or (isinstance(value, bool) and CONFIG_KEYS[name] is not bool):
            raise ValueError(f"{path}: {key} has the invalid value {value!r}")
        values[name.replace("-", "_")] = value
    for name in ("meta_ports", "replica_ports"):
        if name in values:
            values[name] = parse_ports(values[name])
    if not 0 <= values.get("control_port", 0) <= 65535:
        raise ValueError(f"{path}: control-port must be a port from 0 to 65535, not {values['control_port']}")
    for kind, fields in (("settings", Settings), ("limits", Limits)):
        for name, value in values.get(kind, {}).items():
            check_value(fields, name, value, json.dumps(value))
    tables = values.get("tables")
    values["tables"] = None if tables is None else dict(_table(f"{name}:{count}") for name, count in tables.items())
    return values


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the onebox: from the command line, else from the file, else the defaults."""
    config: dict[str, Any] = read_config(arguments.config) if arguments.config else {"tables": None}
    names = [name for name, _ in arguments.table or ()]
    if len(set(names)) < len(names):
        raise ValueError(f"--table names a table twice: {', '.join(names)}")
    options = dict(DEFAULTS)
    for name in OPTION_NAMES:
        given = getattr(arguments, name)
        value = config.get(name) if given is None else given
        if value is not None:
            options[name] = value
    if options.get("data") == "":
        raise ValueError("data names no directory: give one, or omit the option")
    if options.get("sync") and "data" not in options:
        raise ValueError("sync has no effect without data: name the directory for the data")
    if "port" not in options and "meta_ports" not in options:
        options["port"] = 34601
    options["tables"] = dict(arguments.table) if arguments.table else {} if arguments.no_table else config["tables"]
    options["limits"] = Limits(**{**config.get("limits", {}), **dict(arguments.limit)})
    return {**options, **config.get("settings", {}), **dict(arguments.set)}


class _Progress:
    """Shows on stderr once a second how much of the data is read."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 1.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 1.0
            print(f"onebox: read {done:,} of {total:,} rows", file=sys.stderr, flush=True)


class _Console:
    """The console of the cluster, with its own client."""

    def __init__(self, metas: Sequence[str], port: int) -> None:
        from ..client import Client
        from ..console import ConsoleServer

        self._client = Client(list(metas))
        self.server = ConsoleServer(self._client, port=port)
        self.server.start()

    def close(self) -> None:
        """Close the port and the client."""
        self.server.stop()
        self._client.close()


def _errors_on_stderr() -> logging.Handler:
    """Return a handler for errors such as a full disk. Without one, nothing would show them."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    handler.setFormatter(logging.Formatter("onebox: %(message)s"))
    return handler


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from ..onebox import Onebox
    from ..onebox.control.port import ControlServer

    try:
        options = _options(arguments)
        options["auth"], kdc = secured.of(arguments)
        control_port = options.pop("control_port", None)
        if arguments.console is not None and options["auth"] is not None:
            raise ValueError('--console has no credentials for a secured cluster: use "pegasus-green console --url"')
        box = Onebox(**options)
        box.on_progress = _Progress()
    except (OSError, TypeError, ValueError, argparse.ArgumentTypeError) as error:
        print(f"onebox: {error}", file=sys.stderr)
        return 2
    # Set before the ports open: a signal at any time ends the process with status 0.
    watchers = [gevent.signal_handler(number, box.stop) for number in (signal.SIGTERM, signal.SIGINT)]
    control: ControlServer | None = None
    console: _Console | None = None
    log, errors = logging.getLogger("pegasus_green.onebox"), _errors_on_stderr()
    log.addHandler(errors)
    try:
        if kdc is not None:
            secured.start(kdc, arguments.kdc_user or [])
        box.start()
        if control_port is not None:
            # A control connection can do anything to the onebox, so only this machine can connect.
            control = ControlServer(box, "127.0.0.1", control_port)
        if arguments.console is not None:
            console = _Console(box.meta_addresses, arguments.console)
        if arguments.with_parent:
            gevent.spawn(_end_with_parent, box, os.getppid())
        words = ["ready", f"meta={','.join(box.meta_addresses)}"]
        if control is not None:
            words.append(f"control={control.address}")
        if console is not None:
            words.append(f"console={console.server.url}")
        print(*words, flush=True)
        box.wait()
    except (OSError, RuntimeError, ValueError) as error:
        print(f"onebox: {error}", file=sys.stderr)
        return 1
    finally:
        if console is not None:
            console.close()
        box.stop()
        if kdc is not None:
            kdc.stop()
        if control is not None:
            control.close()
        for watcher in watchers:
            watcher.cancel()
        log.removeHandler(errors)
    return 0


def _end_with_parent(box: Any, parent: int) -> None:
    """Stop the onebox at the end of stdin or of the parent; a forked child may keep the other end of stdin open."""
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
            # With a data directory, stop() waits, which the hub cannot do.
            gevent.spawn(box.stop)

    watcher.start(on_readable)
    while box.running:
        gevent.sleep(PARENT_CHECK)
        if os.getppid() != parent:
            box.stop()
