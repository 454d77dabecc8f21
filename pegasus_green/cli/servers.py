"""Commands for servers and partitions: nodes, cluster, remote, config, disks, balance, propose, hot keys, backups."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click
from gevent.pool import Pool

from ..admin.model import (
    BalanceKind,
    BulkLoadStatus,
    HotKeyAction,
    HotKeyKind,
    MetaLevel,
    ProposalKind,
    TableStatus,
)
from ..client import Client
from ..cluster.addresses import parse_address
from ..errors import PegasusError
from ..keys import partition_hash
from .frame import App, command, options, pass_app
from .output import Column, number, state
from .statuses import OK, PARTLY
from .tables import name_of, table_argument, when

partition_argument = click.argument("partition", type=click.IntRange(0), metavar="PARTITION")


def _words(kind: Any) -> list[str]:
    return [item.name.lower().replace("_", "-") for item in kind]


def _chosen(kind: Any, word: str) -> Any:
    return kind[word.upper().replace("-", "_")]


@command("nodes")
@click.option("--disks", "with_disks", is_flag=True, help="Show the disk space of each server.")
@pass_app
def nodes(app: App, with_disks: bool) -> int:
    """List the replica servers with their numbers of primaries and secondaries."""
    admin = app.client.admin
    found = admin.nodes()
    primaries: Counter[str] = Counter()
    secondaries: Counter[str] = Counter()
    for info in admin.list_tables(TableStatus.AVAILABLE):
        for part in admin.partitions(info.name):
            primaries[part.primary] += 1
            secondaries.update(part.secondaries)
    columns = [Column("node"), state("state", ["alive"], ["dead"]), number("primaries"), number("secondaries")]
    rows: list[list[Any]] = [
        [node.address, "alive" if node.is_alive else "dead", primaries[node.address], secondaries[node.address]]
        for node in found
    ]
    if with_disks:
        columns += [number("capacity_mb"), number("available_mb")]
        for row in rows:
            row += _space(app, str(row[0])) if row[1] == "alive" else [None, None]
    app.out.rows(columns, rows)
    return OK


def _space(app: App, address: str) -> list[Any]:
    try:
        disks = app.client.admin.disks(address)
    except PegasusError as error:
        app.out.note(f"{address}: {str(error).splitlines()[0]}")
        return [None, None]
    return [sum(disk.capacity_mb for disk in disks), sum(disk.available_mb for disk in disks)]


@command("cluster")
@pass_app
def cluster(app: App) -> int:
    """Show the meta servers' facts about the cluster."""
    # Some facts are JSON texts.
    app.out.item({name: _parsed_object(text) for name, text in app.client.admin.cluster_info().items()})
    return OK


def _parsed_object(text: str) -> Any:
    found = _parsed(text) if text.startswith("{") else text
    return found if isinstance(found, dict) else text


@command("meta-level")
@click.argument("level", type=click.Choice(_words(MetaLevel)), required=False, metavar="[LEVEL]")
@pass_app
def meta_level(app: App, level: str | None) -> int:
    """Show or set what the meta servers may change by themselves.

    LEVEL is stopped, blind, freezed, steady or lively.
    """
    admin = app.client.admin
    if level is None:
        app.out.one("level", admin.cluster_info().get("meta_function_level", "unknown"))
        return OK
    if level in ("stopped", "blind"):
        app.confirm(f"sets the meta level to {level} (the meta servers then do not heal tables)")
    before = name_of(MetaLevel, admin.set_meta_level(_chosen(MetaLevel, level)))
    app.out.done(f"the meta level is {level}; it was {before}", level=level, before=before)
    return OK


# --------------------------------------------------------------------------------------------------- single servers
server_options = options(
    click.option("--server", "-s", "servers", multiple=True, metavar="HOST:PORT", help="A server; repeatable."),
    click.option("--metas", is_flag=True, help="All known meta servers."),
    click.option("--all", "everything", is_flag=True, help="All meta and replica servers [all replica servers]."),
)


def _servers(app: App, servers: tuple[str, ...], metas: bool, everything: bool) -> list[str]:
    if servers:
        return [parse_address(server) for server in servers]
    found: list[str] = []
    if metas or everything:
        told = app.client.admin.cluster_info().get("meta_servers", "")
        found += [parse_address(text) for text in told.split(",") if text] or list(app.metas)
    if not metas:
        found += [node.address for node in app.client.admin.nodes(alive=True)]
    return found


def _ask_all(app: App, servers: list[str], command_name: str, arguments: tuple[str, ...]) -> int:
    """Run a remote command on servers and print each output. Failures do not hide the output of other servers."""
    admin = app.client.admin

    def ask(server: str) -> tuple[str, str, str]:
        try:
            text = admin.remote_command(server, command_name, arguments)
        except PegasusError as error:
            return server, "", str(error).splitlines()[0]
        # This answer replaces an error code.
        return (server, "", text.strip()) if text.startswith("unknown command") else (server, text, "")

    answers = list(Pool(16).imap(ask, servers))
    failed = [answer for answer in answers if answer[2]]
    if app.out.for_people:
        for server, text, error in answers:
            app.out.done(app.out.bold(server))
            app.out.done("".join(f"  {line}\n" for line in (text or f"error: {error}").splitlines()).rstrip("\n"))
    else:
        rows = [
            (server, _parsed(text) if app.out.form.startswith("json") else text, error)
            for server, text, error in answers
        ]
        app.out.rows([Column("server"), Column("answer"), Column("error")], rows)
    return PARTLY if failed else OK


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@command("remote", context_settings={"ignore_unknown_options": True})
@options(
    click.argument("name", metavar="COMMAND"),
    click.argument("arguments", nargs=-1, metavar="[ARGUMENT]..."),
    server_options,
)
@pass_app
def remote(
    app: App, name: str, arguments: tuple[str, ...], servers: tuple[str, ...], metas: bool, everything: bool
) -> int:
    """Run a remote command on servers, for example help, server-info, server-stat or flush-log.

    "remote help" lists the commands of servers. The command does not ask before commands that change a server.
    """
    return _ask_all(app, _servers(app, servers, metas, everything), name, arguments)


@command("server-info")
@server_options
@pass_app
def server_info(app: App, servers: tuple[str, ...], metas: bool, everything: bool) -> int:
    """Show release, commit and start time of servers."""
    return _ask_all(app, _servers(app, servers, metas, everything), "server-info", ())


@command("server-stat")
@server_options
@pass_app
def server_stat(app: App, servers: tuple[str, ...], metas: bool, everything: bool) -> int:
    """Show the counters of servers. Releases after 2.5 have http://SERVER/metrics instead."""
    return _ask_all(app, _servers(app, servers, metas, everything), "server-stat", ())


@command("config")
@options(
    click.argument("name", metavar="[NAME]", required=False),
    click.argument("value", metavar="[VALUE]", required=False),
    click.option("--section", metavar="TEXT", help="Only sections whose name contains TEXT."),
    server_options,
)
@pass_app
def config(
    app: App,
    name: str | None,
    value: str | None,
    section: str | None,
    servers: tuple[str, ...],
    metas: bool,
    everything: bool,
) -> int:
    """Show all options or one option of the configuration of servers, or set one.

    A new value is valid until the server restarts. The command asks before it sets a value. It uses
    http://SERVER/configs, /config?name=NAME and /updateConfig?NAME=VALUE.
    """
    found = _servers(app, servers, metas, everything)
    query: dict[str, str | None]
    if value is not None:
        app.confirm(f"sets {name} to {value} on {len(found)} servers ({', '.join(found)})")
        path, query = "/updateConfig", {str(name): value}
    else:
        path, query = ("/config", {"name": name}) if name else ("/configs", {})
    rows = [(server, *_configuration(app.client, server, path, query, app.settings.timeout or 5.0)) for server in found]
    if section:
        rows = [(server, _of_section(answer, section), error) for server, answer, error in rows]
    if app.out.for_people:
        for server, answer, error in rows:
            app.out.done(app.out.bold(server))
            lines = [f"error: {error}"] if error else _configuration_lines(answer)
            app.out.done("\n".join(f"  {line}" for line in lines))
    else:
        app.out.rows([Column("server"), Column("answer"), Column("error")], rows)
    return PARTLY if any(error for _, _, error in rows) else OK


def _configuration(
    client: Client, server: str, path: str, query: dict[str, str | None], timeout: float
) -> tuple[Any, str]:
    """Return the content of a server's configuration page, and an error; a page with status 200 can be an error."""
    from .http import get

    try:
        answer = _parsed(get(client, server, path, query, timeout))
    except OSError as problem:
        return None, str(problem)
    status = answer.get("update_status", "") if isinstance(answer, dict) else answer
    failed = isinstance(status, str) and status.startswith("ERR_") and status != "ERR_OK"
    return (None, status) if failed else (answer, "")


def _of_section(answer: Any, section: str) -> Any:
    if not isinstance(answer, dict):
        return answer
    return {key: facts for key, facts in answer.items() if isinstance(facts, dict) and section in facts["section"]}


def _configuration_lines(answer: Any) -> list[str]:
    """Return options as text: by section; with the description if there is only one."""
    if not isinstance(answer, dict):
        return [str(answer)]
    if all(isinstance(facts, dict) for facts in answer.values()):
        return sorted(f"[{facts.get('section')}] {name} = {facts.get('value')}" for name, facts in answer.items())
    if "value" in answer:
        told = answer.get("description")
        line = f"[{answer.get('section')}] {answer.get('name')} = {answer['value']}"
        return [line, *([str(told)] if told else [])]
    return [str(answer.get("update_status", answer))]


@command("disks")
@options(
    click.argument("server", metavar="[HOST:PORT]", required=False),
    click.option("--of", "of_table", metavar="TABLE", help="Only the replicas of this table."),
)
@pass_app
def disks(app: App, server: str | None, of_table: str | None) -> int:
    """Show the data directories of replica servers with their space and replicas."""
    admin = app.client.admin
    found = [parse_address(server)] if server else [node.address for node in admin.nodes(alive=True)]
    columns = [
        Column("node"),
        Column("disk"),
        Column("path"),
        number("capacity_mb"),
        number("available_mb"),
        number("primaries"),
        number("secondaries"),
    ]
    rows = [
        (
            address,
            disk.tag,
            disk.path,
            disk.capacity_mb,
            disk.available_mb,
            sum(map(len, disk.primaries.values())),
            sum(map(len, disk.secondaries.values())),
        )
        for address in found
        for disk in admin.disks(address, of_table)
    ]
    app.out.rows(columns, rows)
    return OK


# -------------------------------------------------------------------------------------------------------- partitions
@command("balance")
@options(
    table_argument,
    partition_argument,
    click.argument("kind", type=click.Choice(_words(BalanceKind)), metavar="KIND"),
    click.argument("source", metavar="FROM"),
    click.argument("target", metavar="TO"),
)
@pass_app
def balance(app: App, table: str, partition: int, kind: str, source: str, target: str) -> int:
    """Move a replica of a partition: KIND is move-primary, copy-primary or copy-secondary.

    With move-primary, TO has a secondary already and becomes the primary. With the others, TO gets a new replica.

    The meta servers accept the proposal and carry it out later; "table" shows the result.
    """
    app.confirm(f"moves a replica of partition {partition} of table {table} from {source} to {target} ({kind})")
    app.client.admin.balance(table, partition, _chosen(BalanceKind, kind), source, target)
    app.out.done("proposed", table=table, partition=partition, kind=kind, source=source, target=target)
    return OK


@command("propose")
@options(
    table_argument,
    partition_argument,
    click.argument("kind", type=click.Choice(_words(ProposalKind)), metavar="KIND"),
    click.argument("target", metavar="TARGET"),
    click.argument("node", metavar="NODE"),
    click.option("--force", is_flag=True, help="Propose it even if the meta server has another plan."),
)
@pass_app
def propose(app: App, table: str, partition: int, kind: str, target: str, node: str, force: bool) -> int:
    """Propose that server TARGET changes server NODE's replica of a partition.

    KIND is assign-primary, upgrade-to-primary, add-secondary, downgrade-to-secondary, downgrade-to-inactive, remove
    or add-secondary-for-lb.
    """
    app.confirm(f"proposes that {target} applies {kind} to {node}, for partition {partition} of table {table},")
    app.client.admin.propose(table, partition, _chosen(ProposalKind, kind), target, node, force=force)
    app.out.done("proposed", table=table, partition=partition, kind=kind, target=target, node=node)
    return OK


@command("lost")
@options(click.argument("table", metavar="[TABLE]", required=False))
@pass_app
def lost(app: App, table: str | None) -> int:
    """List the partitions that have lost all replicas, and the servers that may hold a copy."""
    columns = [number("table_id"), number("partition"), Column("reason"), Column("servers")]
    app.out.rows(columns, app.client.admin.lost_partitions(table))
    return OK


@command("hash")
@options(click.argument("hash_key", metavar="HASH_KEY"), click.argument("sort_key", metavar="[SORT_KEY]", default=""))
@pass_app
def hash_(app: App, hash_key: str, sort_key: str) -> int:
    """Show the hash of a key, its partition, and the servers that hold it."""
    first, second = app.key(hash_key), app.key(sort_key)
    found = partition_hash(first, second)
    partitions = app.client.admin.partitions(app.table_name)
    part = partitions[found % len(partitions)]
    if part.ballot < 0:
        part = partitions[found % (len(partitions) // 2)]
    app.out.item(
        {
            "hash": str(found),
            "partition": part.index,
            "partitions": len(partitions),
            "primary": part.primary,
            "secondaries": list(part.secondaries),
        }
    )
    return OK


@command("hot-keys")
@options(
    table_argument,
    partition_argument,
    click.argument("kind", type=click.Choice(_words(HotKeyKind)), metavar="KIND"),
    click.argument("action", type=click.Choice(_words(HotKeyAction)), default="query", metavar="[ACTION]"),
)
@pass_app
def hot_keys(app: App, table: str, partition: int, kind: str, action: str) -> int:
    """Search for the hash key with the most reads or writes in a partition.

    KIND is read or write; ACTION is start, stop or query [query].
    """
    found = app.client.admin.hot_keys(table, partition, _chosen(HotKeyKind, kind), _chosen(HotKeyAction, action))
    text = {"start": "the search has started", "stop": "the search has stopped"}.get(
        action, found or "nothing found yet"
    )
    app.out.done(text, table=table, partition=partition, kind=kind, action=action, found=found)
    return OK


@command("bulk-load")
@table_argument
@pass_app
def bulk_load(app: App, table: str) -> int:
    """Show the progress of the bulk load of a table.

    In a bulk load, the servers load prepared files of rows from a remote storage.
    """
    found = app.client.admin.bulk_load_status(table)
    if found is None:
        app.out.done(f"table {table} has no bulk load", status=None)
        return OK
    states = Counter(name_of(BulkLoadStatus, status) for status in found.partitions)
    facts = {"status": name_of(BulkLoadStatus, found.status), "running": found.is_running, "partitions": dict(states)}
    app.out.item(facts)
    return OK


@command("backups")
@table_argument
@pass_app
def backups(app: App, table: str) -> int:
    """List the one-time backups of a table."""
    columns = [
        number("id", str),
        Column("provider"),
        Column("path"),
        Column("started"),
        Column("ended"),
        Column("failed"),
    ]
    rows = [
        (backup.backup_id, backup.provider, backup.path, when(backup.started), when(backup.ended), backup.failed)
        for backup in app.client.admin.backups(table)
    ]
    app.out.rows(columns, rows)
    return OK
