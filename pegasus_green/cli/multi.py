"""Commands for several rows of one hash key: mget, mset, mdel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

from ..model import CheckType
from ..operations.atomic import Mutations
from .data import CHECKS, hash_key_argument, ttl_option
from .frame import App, No, command, options, pass_app
from .output import key, value
from .statuses import NO, OK
from .text import counted

range_options = options(
    click.option("--start", metavar="SORT_KEY", help="First sort key."),
    click.option("--stop", metavar="SORT_KEY", help="End of the range, exclusive."),
    click.option("--start-exclusive", is_flag=True, help="Exclude --start itself."),
    click.option("--stop-inclusive", is_flag=True, help="Include --stop itself."),
    click.option("--prefix", metavar="TEXT", help="Prefix of the sort keys."),
)


sort_filter_option = click.option(
    "--filter",
    "--sort-filter",
    "sort_filter",
    metavar="FILTER",
    help="Only sort keys that match prefix:TEXT, suffix:TEXT or contains:TEXT.",
)


def selection(app: App, **found: Any) -> dict[str, Any]:
    """Return the range and filter as keywords for the methods of a table."""
    return {
        "start": app.maybe_key(found["start"]),
        "stop": app.maybe_key(found["stop"]),
        "start_inclusive": not found["start_exclusive"],
        "stop_inclusive": found["stop_inclusive"],
        "prefix": app.maybe_key(found["prefix"]),
        "filter": app.filter(found["sort_filter"]),
    }


def is_whole(found: dict[str, Any]) -> bool:
    """Tell whether a selection selects all rows."""
    return not any(found[name] for name in ("start", "stop", "prefix", "filter"))


@command("mget")
@options(
    hash_key_argument,
    click.argument("sort_keys", metavar="[SORT_KEY]...", nargs=-1),
    range_options,
    sort_filter_option,
    click.option("--reverse", is_flag=True, help="Begin with the last sort key."),
    click.option("--limit", type=click.IntRange(1), metavar="ROWS", help="Maximum number of rows."),
    click.option("--no-value", is_flag=True, help="Omit the values."),
)
@pass_app
def mget(
    app: App,
    hash_key: str,
    sort_keys: tuple[str, ...],
    reverse: bool,
    limit: int | None,
    no_value: bool,
    **ranges: Any,
) -> int:
    """Print rows of a hash key: the given ones, those of a range, or all."""
    first = app.key(hash_key)
    selected = selection(app, **ranges)
    table = app.table
    rows: Iterator[Any]
    if sort_keys:
        if not is_whole(selected) or reverse:
            raise click.UsageError("give either sort keys or a range")
        found: dict[bytes, Any] = {}
        left = [app.key(text) for text in sort_keys]
        while left:
            page = table.multi_get(first, left, no_value=no_value)
            found.update(page)
            last = page.last_key
            # The server reads them in the given order.
            left = [] if page.complete or last not in left else left[left.index(last) + 1 :]
        rows = iter(found.items())
    else:
        rows = table.multi_get_iter(first, reverse=reverse, no_value=no_value, **selected)
    columns = [key("sort_key")] if no_value else [key("sort_key"), value()]
    app.out.rows(columns, (row[: len(columns)] for row in islice(rows, limit)))
    return OK


@command("mset")
@options(
    hash_key_argument,
    click.argument("pairs", metavar="SORT_KEY VALUE...", nargs=-1, required=True),
    ttl_option,
)
@pass_app
def mset(app: App, hash_key: str, pairs: tuple[str, ...], ttl: float | None) -> int:
    """Store rows of a hash key, all or none."""
    if len(pairs) % 2:
        raise click.UsageError("each sort key needs a value: SORT_KEY VALUE SORT_KEY VALUE ...")
    rows = {app.key(name): app.value(text) for name, text in zip(pairs[::2], pairs[1::2])}
    first = app.key(hash_key)
    app.table.multi_set(first, rows, ttl=ttl)
    app.out.done(f"stored {counted(len(rows), 'row')}", hash_key=first, rows=len(rows))
    return OK


@command("mdel")
@options(
    hash_key_argument,
    click.argument("sort_keys", metavar="[SORT_KEY]...", nargs=-1),
    range_options,
    sort_filter_option,
    click.option("--all", "everything", is_flag=True, help="All rows of the hash key."),
)
@pass_app
def mdel(app: App, hash_key: str, sort_keys: tuple[str, ...], everything: bool, **ranges: Any) -> int:
    """Remove rows of a hash key: the given ones, those of a range, or --all.

    The command asks before it removes a range or all rows.
    """
    first = app.key(hash_key)
    selected = selection(app, **ranges)
    if [bool(sort_keys), not is_whole(selected), everything].count(True) != 1:
        raise click.UsageError("give either sort keys, a range, or --all")
    if sort_keys:
        removed = app.table.multi_del(first, [app.key(text) for text in sort_keys])
    else:
        what = "all rows" if everything else "the selected rows"
        app.confirm(f"removes {what} of hash key {app.out.keys.encode(first)} in table {app.table_name}")
        removed = app.table.del_range(first, **selected)
    app.out.done(f"removed {counted(removed, 'row')}", hash_key=first, removed=removed)
    return OK


@command("mutate")
@options(
    hash_key_argument,
    click.option(
        "--if", "check", type=click.Choice(CHECKS), default="no-check", metavar="CHECK", help="The check, as for cas."
    ),
    click.option("--check-key", metavar="SORT_KEY", default="", help="Sort key of the checked row [empty]."),
    click.option("--operand", metavar="VALUE", help="The operand of --if."),
    click.option(
        "--put", "puts", type=(str, str), multiple=True, metavar="SORT_KEY VALUE", help="A row to store; repeatable."
    ),
    click.option("--delete", "deletes", multiple=True, metavar="SORT_KEY", help="A row to remove; repeatable."),
    ttl_option,
)
@pass_app
def mutate(
    app: App,
    hash_key: str,
    check: str,
    check_key: str,
    operand: str | None,
    puts: tuple[tuple[str, str], ...],
    deletes: tuple[str, ...],
    ttl: float | None,
) -> int:
    """Store and remove rows of a hash key in one atomic step, if a check passes.

    The exit status is 1 if the check does not pass.
    """
    mutations = Mutations()
    for name, text in puts:
        mutations.put(app.key(name), app.value(text), ttl=ttl)
    for name in deletes:
        mutations.delete(app.key(name))
    if not len(mutations):
        raise click.UsageError("give --put SORT_KEY VALUE or --delete SORT_KEY")
    compared = None if operand is None else app.value(operand)
    kind = CheckType[check.upper().replace("-", "_")]
    first = app.key(hash_key)
    found = app.table.check_and_mutate(first, app.key(check_key), kind, compared, mutations=mutations)
    if not app.out.for_people:
        app.out.facts({"hash_key": first, "done": found.was_set}, {"hash_key"})
        return OK if found.was_set else NO
    if not found.was_set:
        raise No("not done: the check did not pass")
    app.out.done(f"done: {len(puts)} stored, {len(deletes)} removed")
    return OK
