"""Commands for tables: list, create, drop, recall, rename, envs, split, compact, replicas."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from time import monotonic
from typing import Any

import click
import gevent

from ..admin.model import PartitionInfo, SplitState, TableInfo, TableStatus
from ..errors import RequestTimeout
from .frame import DURATION, App, No, command, complete_tables, options, pass_app
from .output import Column, number, state
from .statuses import NO, OK

table_argument = click.argument("table", metavar="TABLE", shell_complete=complete_tables)
wait_option = click.option("--wait", is_flag=True, help="Wait until the servers have finished.")
wait_time_option = click.option(
    "--wait-time", type=DURATION, default="60", metavar="TIME", help="Maximum time to wait [60 s]."
)
POLL_SECONDS = 0.5


def name_of(status: Any, found: int) -> str:
    """Return the name of an enum's number, or the number if a newer server sends an unknown one."""
    return str(status(found).name.lower()) if found in list(status) else str(found)


def when(seconds: float) -> str | None:
    """Return a Unix time as UTC text; None for 0."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S") if seconds else None


def _facts(info: TableInfo) -> dict[str, Any]:
    return {
        "id": info.app_id,
        "name": info.name,
        "status": name_of(TableStatus, info.status),
        "partitions": info.partition_count,
        "replicas": info.replica_count,
        "created": when(info.created),
        "envs": dict(info.envs),
    }


STATUS = state("status", ["available"], ["create_failed", "drop_failed", "dropped"])


@command("tables")
@click.option("--all", "everything", is_flag=True, help="Also list dropped tables that can be recalled.")
@click.option("--health", is_flag=True, help="Also show the number of healthy partitions.")
@pass_app
def tables(app: App, everything: bool, health: bool) -> int:
    """List the tables."""
    admin = app.client.admin
    found = [_facts(info) for info in admin.list_tables(None if everything else TableStatus.AVAILABLE)]
    columns = [number("id"), Column("name"), STATUS, number("partitions"), number("replicas"), Column("created")]
    if health:
        columns.insert(4, number("healthy"))
        for facts in found:
            known = admin.partitions(facts["name"]) if facts["status"] == "available" else []
            facts["healthy"] = sum(partition.is_healthy for partition in known)
    columns.append(Column("envs"))
    app.out.rows(columns, ([facts[column.name] for column in columns] for facts in found))
    return OK


def _role(partition: PartitionInfo) -> str:
    if partition.ballot < 0:
        return "splitting"
    if not partition.primary:
        return "no primary"
    return "healthy" if partition.is_healthy else "lacks replicas"


@command("table")
@options(table_argument)
@pass_app
def table(app: App, table: str) -> int:
    """Show a table: its settings, and the servers of each partition."""
    admin = app.client.admin
    info, partitions = admin.table_info(table), admin.partitions(table)
    columns = [
        number("partition"),
        state("state", ["healthy"], ["no primary", "lacks replicas"]),
        Column("primary"),
        Column("secondaries"),
        number("ballot"),
    ]
    rows = [(part.index, _role(part), part.primary, part.secondaries, part.ballot) for part in partitions]
    if app.out.form == "json":
        listed = [dict(zip((column.name for column in columns), row)) for row in rows]
        app.out.item({**_facts(info), "partition_list": listed})
        return OK
    if app.out.for_people:
        app.out.item(_facts(info), {"status": STATUS})
        app.out.done("")
    app.out.rows(columns, rows)
    return OK


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"an env is NAME=VALUE, not {text!r}")
        found[name] = value
    return found


@command("create")
@options(
    table_argument,
    click.option("--partitions", "-p", type=click.IntRange(1), default=8, metavar="N", help="Partitions [8]."),
    click.option(
        "--replicas", "-r", type=click.IntRange(1), default=3, metavar="N", help="Replicas of each partition [3]."
    ),
    click.option("--env", "envs", multiple=True, metavar="NAME=VALUE", help="A setting of the table; repeatable."),
    click.option(
        "--exist-ok", is_flag=True, help="No error if the table exists with these numbers of partitions and replicas."
    ),
    click.option("--no-wait", is_flag=True, help="Do not wait until all replicas exist."),
    wait_time_option,
)
@pass_app
def create(
    app: App,
    table: str,
    partitions: int,
    replicas: int,
    envs: tuple[str, ...],
    exist_ok: bool,
    no_wait: bool,
    wait_time: float,
) -> int:
    """Create a table and wait until it serves requests."""
    app_id = app.client.admin.create_table(
        table, partitions, replicas, envs=_pairs(envs), exist_ok=exist_ok, wait=not no_wait, timeout=wait_time
    )
    app.out.done(f"created table {table}, id {app_id}", name=table, id=app_id)
    return OK


@command("drop")
@options(
    table_argument,
    click.option("--reserve", type=DURATION, metavar="TIME", help="Time for which the table can be recalled [7 d]."),
    click.option("--missing-ok", is_flag=True, help="No error if there is no such table."),
    click.option(
        "--force",
        is_flag=True,
        help="Drop the table even if partitions lack a primary; a later recall can then crash a server.",
    ),
)
@pass_app
def drop(app: App, table: str, reserve: float | None, missing_ok: bool, force: bool) -> int:
    """Drop a table. Its data can be recalled for a while. Asks first."""
    app.confirm(f"drops table {table} with all its rows")
    app_id = app.client.admin.drop_table(table, missing_ok=missing_ok, reserve=reserve, force=force)
    if app_id is None:
        app.out.done(f"there is no table {table}", name=table, id=None)
    else:
        app.out.done(f"dropped table {table}; pegasus-green recall {app_id} restores it", name=table, id=app_id)
    return OK


@command("recall")
@options(
    click.argument("app_id", type=int, metavar="ID"),
    click.argument("new_name", required=False, metavar="[NEW_NAME]"),
    click.option("--no-wait", is_flag=True, help="Do not wait until all replicas exist."),
    wait_time_option,
)
@pass_app
def recall(app: App, app_id: int, new_name: str | None, no_wait: bool, wait_time: float) -> int:
    """Recall a dropped table. "tables --all" shows the ids. Asks first.

    A table that was dropped before its replicas existed must not be recalled: a server that opens it crashes.
    """
    app.confirm(f"recalls table {app_id} (if its replicas never existed, a replica server crashes)")
    info = app.client.admin.recall_table(app_id, new_name, force=True, wait=not no_wait, timeout=wait_time)
    app.out.done(f"recalled table {info.name}, id {info.app_id}", name=info.name, id=info.app_id)
    return OK


@command("rename")
@options(table_argument, click.argument("new_name", metavar="NEW_NAME"))
@pass_app
def rename(app: App, table: str, new_name: str) -> int:
    """Rename a table."""
    app.client.admin.rename_table(table, new_name)
    app.out.done(f"renamed table {table} to {new_name}", old_name=table, name=new_name)
    return OK


@command("envs")
@options(
    table_argument,
    click.argument("settings", nargs=-1, metavar="[NAME=VALUE]..."),
    click.option("--delete", "names", multiple=True, metavar="NAME", help="Delete this env; repeatable."),
    click.option(
        "--clear", "prefix", metavar="PREFIX", help='Delete the envs whose names begin with PREFIX and a dot; "": all.'
    ),
)
@pass_app
def envs(app: App, table: str, settings: tuple[str, ...], names: tuple[str, ...], prefix: str | None) -> int:
    """Show or change the envs of a table. An env is a setting: the servers apply it while they run."""
    admin, pairs = app.client.admin, _pairs(settings)
    if prefix is not None:
        which = f'whose names begin with "{prefix}."' if prefix else "of every name"
        app.confirm(f"deletes the envs {which} of table {table}")
        admin.clear_envs(table, prefix)
    if names:
        admin.delete_envs(table, names)
    if pairs:
        admin.set_envs(table, pairs)
    found = admin.get_envs(table)
    if app.out.form == "json":
        app.out.item(found)
    else:
        app.out.rows([Column("name"), Column("value")], sorted(found.items()))
    return OK


@command("replicas")
@options(table_argument, click.argument("count", type=click.IntRange(1), required=False, metavar="[COUNT]"))
@pass_app
def replicas(app: App, table: str, count: int | None) -> int:
    """Show or change the number of replicas that each partition of a table should have."""
    admin = app.client.admin
    if count is None:
        app.out.one("replicas", admin.get_replica_count(table), table=table)
        return OK
    before = admin.set_replica_count(table, count)
    app.out.done(f"each partition of {table} gets {count} replicas; it had {before}", replicas=count, before=before)
    return OK


def _poll(seconds: float, what: str) -> Iterator[None]:
    """Yield every half second until the time ends.

    Raises:
        RequestTimeout: The time has ended.
    """
    end = monotonic() + seconds
    while monotonic() < end:
        yield
        gevent.sleep(POLL_SECONDS)
    raise RequestTimeout(f"{what} is not done after {seconds:g} s; it continues")


@command("split")
@options(
    table_argument,
    click.option(
        "--to",
        "partitions",
        type=click.IntRange(2),
        metavar="N",
        help="Start a split; N must be twice the current number.",
    ),
    click.option("--pause", is_flag=True, help="Pause the split."),
    click.option("--resume", is_flag=True, help="Resume the split."),
    click.option("--cancel", is_flag=True, help="Cancel the split. Asks first."),
    click.option("--partition", type=click.IntRange(0), metavar="INDEX", help="Pause or resume only this partition."),
    wait_option,
    wait_time_option,
)
@pass_app
def split(
    app: App,
    table: str,
    partitions: int | None,
    pause: bool,
    resume: bool,
    cancel: bool,
    partition: int | None,
    wait: bool,
    wait_time: float,
) -> int:
    """Show the progress of the split of a table's partitions, or start and control one."""
    admin = app.client.admin
    if [partitions is not None, pause, resume, cancel].count(True) > 1:
        raise click.UsageError("give one of --to, --pause, --resume and --cancel")
    if partition is not None and not (pause or resume):
        raise click.UsageError("--partition needs --pause or --resume: the other options are for the whole table")
    if partitions is not None:
        admin.start_split(table, partitions)
    elif pause:
        admin.pause_split(table, partition)
    elif resume:
        admin.resume_split(table, partition)
    elif cancel:
        app.confirm(f"cancels the split of table {table}")
        admin.cancel_split(table)
    status = admin.split_status(table)
    if wait:
        for _ in _poll(wait_time, f"the split of table {table}"):
            status = admin.split_status(table)
            if status is None:
                break
    if status is None:
        count = admin.table_info(table).partition_count
        app.out.done(f"no split is running; the table has {count} partitions", splitting=False, partitions=count)
        return OK
    states = [name_of(SplitState, found) for found in status.parents.values()]
    half = status.partition_count // 2
    facts = {"splitting": True, "partitions": status.partition_count, "ready": half - len(states)}
    text = f"splits to {status.partition_count} partitions: {half - len(states)} of {half} are split"
    counts = {found: states.count(found) for found in sorted(set(states))}
    app.out.done("".join([text, *(f", {count} {found}" for found, count in counts.items())]), **facts, states=counts)
    return OK


@command("compact")
@options(
    table_argument,
    click.option("--start", is_flag=True, help="Start a manual compaction."),
    click.option("--bottommost", is_flag=True, help="Also rewrite the lowest level."),
    click.option(
        "--running",
        type=click.IntRange(1),
        metavar="N",
        help="Maximum number of replicas that one server compacts at the same time.",
    ),
    wait_option,
    wait_time_option,
)
@pass_app
def compact(
    app: App, table: str, start: bool, bottommost: bool, running: int | None, wait: bool, wait_time: float
) -> int:
    """Show the progress of the manual compaction of a table, or start one.

    A compaction frees the space of removed and expired rows.
    """
    admin = app.client.admin
    if start:
        settings: dict[str, Any] = {"bottommost": bottommost} if bottommost else {}
        if running is not None:
            settings["max_running"] = running
        admin.start_compaction(table, **settings)
    elif bottommost or running is not None:
        raise click.UsageError("--bottommost and --running need --start")
    progress = admin.compaction_progress(table)
    if wait:
        for _ in _poll(wait_time, f"the compaction of table {table}"):
            progress = admin.compaction_progress(table)
            if progress >= 100:
                break
    app.out.done(f"compaction of {table}: {progress} %", table=table, progress=progress)
    return OK


_WELL = Column("state", style=lambda cell: "green" if cell in ("alive", "healthy") else "red")


@command("health")
@options(
    click.argument("names", nargs=-1, metavar="[TABLE]..."),
    click.option("--wait", is_flag=True, help="Wait until the tables are healthy."),
    wait_time_option,
)
@pass_app
def health(app: App, names: tuple[str, ...], wait: bool, wait_time: float) -> int:
    """Tell whether nodes and tables are healthy. The exit status is 1 if they are not.

    A table is healthy if every partition has its primary and all its replicas. Without names, all tables are checked.
    """
    admin = app.client.admin
    wanted = names or tuple(info.name for info in admin.list_tables())
    if wait:
        for name in wanted:
            admin.wait_until_healthy(name, timeout=wait_time)
    rows: list[tuple[str, str, str]] = []
    if not names:
        rows = [("node", node.address, "alive" if node.is_alive else "dead") for node in admin.nodes()]
    for name in wanted:
        bad = [part for part in admin.partitions(name) if not part.is_healthy]
        if bad:
            text = ", ".join(f"partition {part.index} {_role(part)}" for part in bad[:3])
            text += f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        rows.append(("table", name, text if bad else "healthy"))
    columns = [Column("what"), Column("name"), _WELL]
    app.out.rows(columns, rows)
    is_well = all(found in ("alive", "healthy") for _, _, found in rows)
    if not is_well and app.out.for_people:
        raise No("not healthy")
    return OK if is_well else NO
