"""Commands that read many rows: keys, scan, count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import click

from .frame import App, command, options, pass_app
from .multi import is_whole, range_options, selection, sort_filter_option
from .output import Column, key, number, show, value
from .statuses import OK, PARTLY
from .text import counted

PAGE = 1000

filter_options = options(
    click.option(
        "--hash-filter", metavar="FILTER", help="Only hash keys that match prefix:TEXT, suffix:TEXT or contains:TEXT."
    ),
    sort_filter_option,
)
parallel_option = click.option(
    "--parallel", type=click.IntRange(1, 1024), default=4, metavar="N", help="Partitions read at the same time [4]."
)
partition_option = click.option(
    "--partition",
    "partitions",
    type=click.IntRange(0),
    multiple=True,
    metavar="INDEX",
    help="Only this partition; repeatable.",
)


@command("keys")
@options(
    click.argument("hash_key", metavar="[HASH_KEY]", required=False),
    range_options,
    sort_filter_option,
    click.option(
        "--hash-filter", metavar="FILTER", help="Without HASH_KEY: only hash keys that match, as for --filter."
    ),
    click.option("--limit", type=click.IntRange(1), metavar="N", help="Maximum number of keys."),
)
@pass_app
def keys(app: App, hash_key: str | None, hash_filter: str | None, limit: int | None, **ranges: Any) -> int:
    """Print the sort keys of a hash key, or the table's hash keys with their numbers of rows."""
    selected = selection(app, **ranges)
    table = app.table
    if hash_key is not None:
        if hash_filter is not None:
            raise click.UsageError("--hash-filter cannot be used with a hash key")
        found = table.multi_get_iter(app.key(hash_key), no_value=True, **selected)
        app.out.rows([key("sort_key")], ((row[0],) for row in islice(found, limit)))
        return OK
    if any(ranges[name] for name in ("start", "stop", "prefix")):
        raise click.UsageError("a range needs a hash key")
    rows = table.scan(
        hash_key_filter=app.filter(hash_filter), sort_key_filter=app.filter(ranges["sort_filter"]), no_value=True
    )
    with rows:
        app.out.rows([key("hash_key"), number("rows")], islice(_hash_keys(rows), limit))
    return OK


def _hash_keys(rows: Iterable[Any]) -> Iterator[tuple[bytes, int]]:
    """Return the hash keys with their numbers of rows. Rows of one hash key are adjacent.

    Those of the empty one are in all partitions, so it comes last.
    """
    of_empty = 0
    for name, group in groupby(rows, itemgetter(0)):
        found = sum(1 for _ in group)
        if name:
            yield name, found
        else:
            of_empty += found
    if of_empty:
        yield b"", of_empty


@command("scan")
@options(
    click.argument("hash_key", metavar="[HASH_KEY]", required=False),
    range_options,
    filter_options,
    click.option("--limit", type=click.IntRange(1), metavar="ROWS", help="Maximum number of rows."),
    click.option("--no-value", is_flag=True, help="Omit the values."),
    click.option("--ttl", "with_ttl", is_flag=True, help="Add the remaining time of each row, in seconds."),
    click.option("--reverse", is_flag=True, help="With HASH_KEY: begin with the last sort key."),
    click.option(
        "--parallel", type=click.IntRange(1, 1024), default=1, metavar="N", help="Partitions read at the same time [1]."
    ),
    partition_option,
    click.option("--resume", metavar="TOKEN", help="Continue after an earlier scan, with its token."),
    click.option("--show-token", is_flag=True, help="Print the token for --resume on stderr at the end."),
)
@pass_app
def scan(
    app: App,
    hash_key: str | None,
    hash_filter: str | None,
    sort_filter: str | None,
    limit: int | None,
    no_value: bool,
    with_ttl: bool,
    reverse: bool,
    parallel: int,
    partitions: tuple[int, ...],
    resume: str | None,
    show_token: bool,
    **ranges: Any,
) -> int:
    """Print the rows of a hash key, or of the whole table.

    Within a partition the rows are ordered by the length of the hash key, then by hash key, then by sort key. The
    partitions follow one another; with --parallel, their rows are mixed.
    """
    selected = selection(app, sort_filter=sort_filter, **ranges)
    columns = [key("sort_key")] + ([] if no_value else [value()]) + ([number("ttl", show)] if with_ttl else [])
    rows: Any
    if hash_key is None:
        if not is_whole({**selected, "filter": None}) or reverse:
            raise click.UsageError("a range and --reverse need a hash key")
        columns.insert(0, key("hash_key"))
        rows = app.table.scan(
            hash_key_filter=app.filter(hash_filter),
            sort_key_filter=selected["filter"],
            no_value=no_value,
            with_ttl=with_ttl,
            limit=limit,
            parallel=parallel,
            resume=resume,
            partitions=partitions or None,
        )
    elif hash_filter is not None or partitions or parallel != 1:
        raise click.UsageError("--hash-filter, --partition and --parallel cannot be used with a hash key")
    elif reverse:
        if with_ttl or resume or show_token:
            raise click.UsageError("--reverse cannot be combined with --ttl or a token")
        rows = islice(app.table.multi_get_iter(app.key(hash_key), reverse=True, no_value=no_value, **selected), limit)
    else:
        rows = app.table.hash_scan(
            app.key(hash_key), no_value=no_value, with_ttl=with_ttl, limit=limit, resume=resume, **selected
        )
    try:
        app.out.rows(columns, _without_empty(rows, columns, no_value=no_value))
    finally:
        if not reverse:
            rows.close()
            if show_token:
                app.out.note(f"token: {rows.token()}")
    return OK


def _without_empty(rows: Iterable[Any], columns: list[Column], *, no_value: bool) -> Iterator[Any]:
    """Remove the empty values from rows that were read without values."""
    if not no_value:
        return iter(rows)
    at = 2 if columns[0].name == "hash_key" else 1
    return ((*row[:at], *row[at + 1 :]) for row in rows)


@command("count")
@options(
    click.argument("hash_key", metavar="[HASH_KEY]", required=False),
    filter_options,
    click.option("--exact", is_flag=True, help="Count every row (default)."),
    click.option(
        "--estimate", is_flag=True, help="The servers' estimate, which is fast (/metrics, releases after 2.5)."
    ),
    click.option("--by-partition", is_flag=True, help="One line for each partition."),
    click.option("--histogram", is_flag=True, help="Sizes of keys and values, rows by hash key, largest items."),
    click.option(
        "--largest", type=click.IntRange(0, 1000), default=10, metavar="N", help="Number of largest items [10]."
    ),
    parallel_option,
    partition_option,
)
@pass_app
def count(
    app: App,
    hash_key: str | None,
    hash_filter: str | None,
    sort_filter: str | None,
    exact: bool,
    estimate: bool,
    by_partition: bool,
    histogram: bool,
    largest: int,
    parallel: int,
    partitions: tuple[int, ...],
) -> int:
    """Count the rows of a table or of a hash key. The servers count. With --histogram the command reads all rows."""
    if [exact, estimate, histogram].count(True) > 1:
        raise click.UsageError("give one of --exact, --estimate and --histogram")
    table, out = app.table, app.out
    if hash_key is not None:
        if hash_filter or sort_filter or by_partition or histogram or estimate or partitions:
            raise click.UsageError(
                "--hash-filter, --filter, --estimate, --histogram, --by-partition and --partition cannot be used with a"
                " hash key"
            )
        first = app.key(hash_key)
        out.one("rows", table.sort_key_count(first), hash_key=first)
        return OK
    filters: dict[str, Any] = {"hash_key_filter": app.filter(hash_filter), "sort_key_filter": app.filter(sort_filter)}
    if histogram:
        if by_partition or partitions:
            raise click.UsageError("--histogram cannot be combined with --by-partition or --partition")
        from .histogram import measure

        measure(app, parallel, largest, **filters)
        return OK
    if estimate:
        if by_partition or partitions or any(filters.values()):
            raise click.UsageError("--estimate is for a whole table: it cannot be used with filters or partitions")
        return _estimate(app)
    if not by_partition:
        found = table.count(parallel=parallel, partitions=partitions or None, **filters)
        out.one("rows", found)
        return OK
    # One count for all partitions. With one for each, the children of a split that finishes meanwhile would be missing.
    found_each = sorted(table._counts(parallel=parallel, partitions=partitions or None, **filters).items())
    out.rows([number("partition"), number("rows")], found_each)
    if out.for_people:
        out.note(f"{counted(sum(rows for _, rows in found_each), 'row')} in {counted(len(found_each), 'partition')}")
    return OK


def _estimate(app: App) -> int:
    from .metrics import estimate

    total, problems = estimate(app, app.table_name)
    app.out.one("rows_estimated", total)
    for problem in problems:
        app.out.note(f"not counted: {problem}")
    return PARTLY if problems else OK
