"""Commands for one row: get, set, del, exists, ttl, touch, incr, cas."""

from __future__ import annotations

import math
from typing import Any

import click

from ..model import CheckType
from .frame import DURATION, App, No, command, options, pass_app
from .statuses import NO, OK
from .text import counted, show_duration

hash_key_argument = click.argument("hash_key", metavar="HASH_KEY")
sort_key_argument = click.argument("sort_key", metavar="SORT_KEY", default="")
ttl_option = click.option("--ttl", type=DURATION, metavar="TIME", help="Time to live: seconds, 15m, 12h, 7d, or never.")
file_option = click.option(
    "--file", "path", type=click.Path(), metavar="FILE", help="Read the value from a file as raw bytes; -: stdin."
)


def _absent(app: App) -> No:
    return No(f"table {app.table_name} has no such row")


@command("get")
@options(hash_key_argument, sort_key_argument)
@pass_app
def get(app: App, hash_key: str, sort_key: str) -> int:
    """Print the value of a row.

    With -o raw the output is only the bytes of the value.
    """
    first, second = app.key(hash_key), app.key(sort_key)
    found = app.table.get(first, second)
    if found is None:
        raise _absent(app)
    app.out.one("value", found, "value", hash_key=first, sort_key=second)
    return OK


@command("set")
@options(
    hash_key_argument,
    click.argument("sort_key", metavar="SORT_KEY"),
    click.argument("value", metavar="[VALUE]", required=False),
    file_option,
    ttl_option,
)
@pass_app
def set_(app: App, hash_key: str, sort_key: str, value: str | None, path: str | None, ttl: float | None) -> int:
    """Store a row."""
    first, second = app.key(hash_key), app.key(sort_key)
    data = app.value(value, path)
    app.table.set(first, second, data, ttl=ttl)
    app.out.done(f"stored, {counted(len(data), 'byte')}", hash_key=first, sort_key=second, bytes=len(data))
    return OK


@command("del")
@options(hash_key_argument, sort_key_argument)
@pass_app
def delete(app: App, hash_key: str, sort_key: str) -> int:
    """Remove a row. It is no error if there is no such row."""
    first, second = app.key(hash_key), app.key(sort_key)
    app.table.remove(first, second)
    app.out.done("removed", hash_key=first, sort_key=second, removed=True)
    return OK


@command("exists")
@options(hash_key_argument, sort_key_argument)
@pass_app
def exists(app: App, hash_key: str, sort_key: str) -> int:
    """Print whether a row exists. The exit status is 1 if it does not."""
    first, second = app.key(hash_key), app.key(sort_key)
    found = app.table.exist(first, second)
    app.out.one("exists", found, hash_key=first, sort_key=second)
    return OK if found else NO


def _whole(seconds: float | None) -> Any:
    return None if seconds is None or math.isinf(seconds) else int(seconds)


@command("ttl")
@options(hash_key_argument, sort_key_argument)
@pass_app
def ttl(app: App, hash_key: str, sort_key: str) -> int:
    """Print the remaining seconds of a row, or "never" (null in JSON) if it does not expire."""
    first, second = app.key(hash_key), app.key(sort_key)
    found = app.table.ttl(first, second)
    if found is None:
        raise _absent(app)
    if app.out.for_people:
        seconds = "never" if math.isinf(found) else f"{int(found)}"
        app.out.done(seconds if found < 60 or math.isinf(found) else f"{seconds} ({show_duration(found)})")
    else:
        app.out.one("ttl", _whole(found), hash_key=first, sort_key=second)
    return OK


@command("touch")
@options(
    hash_key_argument,
    click.argument("sort_key", metavar="SORT_KEY"),
    click.argument("time", type=DURATION, metavar="TIME"),
)
@pass_app
def touch(app: App, hash_key: str, sort_key: str, time: float) -> int:
    """Set the time until a row expires: seconds, 15m, 12h, 7d, or never."""
    first, second = app.key(hash_key), app.key(sort_key)
    if not app.table.touch(first, second, time or None):
        raise _absent(app)
    text = f"expires in {show_duration(math.ceil(time))}" if time else "never expires"
    app.out.done(text, hash_key=first, sort_key=second, ttl=math.ceil(time) or None)
    return OK


@command("incr")
@options(
    hash_key_argument,
    click.argument("sort_key", metavar="SORT_KEY"),
    click.argument("by", type=int, metavar="[BY]", default=1),
    ttl_option,
)
@pass_app
def incr(app: App, hash_key: str, sort_key: str, by: int, ttl: float | None) -> int:
    """Add a number to the number in a row, and print the sum. An absent row counts as 0."""
    first, second = app.key(hash_key), app.key(sort_key)
    found = app.table.incr(first, second, by, ttl=ttl)
    app.out.one("value", found, hash_key=first, sort_key=second)
    return OK


CHECKS = [check.name.lower().replace("_", "-") for check in CheckType]


@command("cas")
@options(
    hash_key_argument,
    click.argument("sort_key", metavar="SORT_KEY"),
    click.argument("value", metavar="[VALUE]", required=False),
    file_option,
    ttl_option,
    click.option("--if-absent", is_flag=True, help="Check that there is no row."),
    click.option("--if-equals", metavar="VALUE", help="Check that the row has this value."),
    click.option("--if", "check", type=click.Choice(CHECKS), metavar="CHECK", help=f"The check: {', '.join(CHECKS)}."),
    click.option("--operand", metavar="VALUE", help="The operand of --if."),
    click.option("--check-key", metavar="SORT_KEY", help="Sort key of the checked row [the same row]."),
)
@pass_app
def cas(
    app: App,
    hash_key: str,
    sort_key: str,
    value: str | None,
    path: str | None,
    ttl: float | None,
    if_absent: bool,
    if_equals: str | None,
    check: str | None,
    operand: str | None,
    check_key: str | None,
) -> int:
    """Store a row if a check passes, in one atomic step. The exit status is 1 if the check does not pass."""
    if [if_absent, if_equals is not None, check is not None].count(True) != 1:
        raise click.UsageError("give one of --if-absent, --if-equals VALUE and --if CHECK")
    first, second = app.key(hash_key), app.key(sort_key)
    compared: bytes | None = None
    if if_absent:
        kind = CheckType.NOT_EXIST
    elif if_equals is not None:
        kind, compared = CheckType.BYTES_EQUAL, app.value(if_equals)
    else:
        assert check is not None
        kind = CheckType[check.upper().replace("-", "_")]
        compared = None if operand is None else app.value(operand)
    checked = second if check_key is None else app.key(check_key)
    data = app.value(value, path)
    found = app.table.check_and_set(
        first, checked, kind, compared, value=data, sort_key=second, ttl=ttl, return_check_value=True
    )
    facts = {"hash_key": first, "sort_key": second, "stored": found.was_set, "checked_value": found.raw_check_value}
    if not app.out.for_people:
        app.out.facts(facts, {"hash_key", "sort_key"})
        return OK if found.was_set else NO
    if found.was_set:
        app.out.done("stored")
        return OK
    held = found.raw_check_value
    raise No("not stored: " + ("there is no such row" if held is None else f"the row is {app.out.values.encode(held)}"))
