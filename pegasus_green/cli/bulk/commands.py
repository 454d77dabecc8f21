"""The commands for many rows: export, import, copy, clear."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import IO, Any

import click
import gevent

from ...errors import PegasusError
from ..config import EMPTY, find_place
from ..frame import DURATION, SIZE, App, command, complete_clusters, complete_tables, options, pass_app
from ..multi import is_whole, range_options, selection
from ..output import Sink
from ..scans import filter_options, parallel_option
from ..statuses import OK, PARTLY
from ..text import escape
from ..threads import in_thread
from .formats import FORMATS, Compressor, Malformed, decoder, encoder, guess, open_rows
from .pace import Limit, Progress
from .state import State
from .tables import CHUNK_ROWS, TIMEOUT, Source, Target, chunks

speed_options = options(
    click.option(
        "--rows-per-second", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N rows per second."
    ),
    click.option("--bytes-per-second", type=SIZE, metavar="SIZE", help="At most SIZE bytes per second: 500k, 10M."),
    click.option("--quiet", is_flag=True, help="Show no progress."),
)
state_options = options(
    click.option(
        "--state", "state_path", type=click.Path(), metavar="FILE", help="File that stores the progress, for --resume."
    ),
    click.option("--resume", is_flag=True, help="Continue a run that was interrupted or killed."),
    click.option(
        "--checkpoint",
        type=DURATION,
        default="1",
        metavar="TIME",
        help="Time between two writes of the progress [1 s].",
    ),
)
concurrency_option = click.option(
    "--concurrency", type=click.IntRange(1, 10_000), default=128, metavar="N", help="Requests in flight [128]."
)
if_absent_option = click.option("--if-absent", is_flag=True, help="Do not change existing rows.")
format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Format of the file [from its name, else jsonl]."
)


class Checkpoints:
    """Saves the progress of a command at intervals."""

    def __init__(self, state: State, every: float, position: Callable[[], dict[str, Any]]) -> None:
        """Save to a state file.

        Args:
            state: The state file.
            every: Seconds between two saves.
            position: Makes the finished work durable, and returns its position.
        """
        self._state, self._every, self._position = state, every, position
        self._next = monotonic() + every

    def maybe(self) -> None:
        """Save if the interval has passed."""
        if monotonic() >= self._next:
            self._state.save(**self._position())
            self._next = monotonic() + self._every


def _report(app: App, progress: Progress, verb: str, *, beside: bool = False, **more: Any) -> int:
    text, facts = progress.report(verb)
    facts = {**facts, **more}
    # The rows of the report include these.
    extra = ", ".join(f"including {found:,} {name}" for name, found in more.items() if isinstance(found, int) and found)
    if beside:
        app.out.note(text + (f", {extra}" if extra else ""))
    else:
        app.out.done(text + (f", {extra}" if extra else ""), **facts)
    return PARTLY if progress.errors else OK


def _count_beside(progress: Progress, app: App, **filters: Any) -> Any:
    """Let the servers count the rows meanwhile, for the estimate of the remaining time; return the greenlet."""

    def count() -> None:
        try:
            progress.total = app.table.count(parallel=2, timeout=TIMEOUT, **filters)
        except PegasusError:
            pass  # then the remaining time is not shown

    return gevent.spawn(count)


# --------------------------------------------------------------------------------------------------------------- export
class _File:
    """The output file: truncated to the last checkpoint, optionally compressed."""

    def __init__(self, path: str, offset: int, *, compressed: bool) -> None:
        self._path, self.offset = path, offset
        self._compressor = Compressor() if compressed else None
        self._file: IO[bytes] | None = None
        self._sink = Sink() if path == "-" else None
        if self._sink is None:
            if offset and (not os.path.exists(path) or os.path.getsize(path) < offset):
                raise click.UsageError(f"{path} is shorter than at the last checkpoint: start again with --overwrite")
            try:
                self._file = open(path, "r+b" if offset else "wb")  # noqa: SIM115 - closed by close()
                if offset:
                    self._file.truncate(offset)
                    self._file.seek(offset)
            except OSError as error:
                raise click.UsageError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, data: bytes) -> None:
        self._raw(self._compressor.compress(data) if self._compressor else data)

    def _raw(self, data: bytes) -> None:
        self.offset += len(data)
        if self._sink is not None:
            self._sink.write(data)
        elif self._file is not None and data:
            in_thread(self._file.write, data)

    def sync(self) -> int:
        """Return the offset up to which the disk has complete rows."""
        if self._compressor:
            self._raw(self._compressor.end_frame())
        if self._sink is not None:
            self._sink.flush()
        elif self._file is not None:
            in_thread(_sync, self._file)
        return self.offset

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@command("export")
@options(
    click.argument("path", type=click.Path(), metavar="FILE"),
    format_option,
    click.option("--zstd", "compressed", is_flag=True, help="Compress with zstd [if the name ends in .zst]."),
    filter_options,
    parallel_option,
    speed_options,
    state_options,
    click.option("--overwrite", is_flag=True, help="Replace an existing file."),
)
@pass_app
def export(
    app: App,
    path: str,
    form: str | None,
    compressed: bool,
    hash_filter: str | None,
    sort_filter: str | None,
    parallel: int,
    rows_per_second: float | None,
    bytes_per_second: int | None,
    quiet: bool,
    state_path: str | None,
    resume: bool,
    checkpoint: float,
    overwrite: bool,
) -> int:
    """Write the rows of a table to a file: JSON lines, CSV or binary; - is stdout.

    The name determines the format: .jsonl, .csv, .bin, each with .zst for zstd. Rows keep the time at which they
    expire. FILE.state has the progress, and --resume continues from it. Within a partition the rows are ordered by the
    length of the hash key, then by hash key, then by sort key. With --parallel 1 the partitions follow one another;
    with more, their rows are mixed.
    """
    named, squeezed = guess(path)
    form, compressed = form or named or "jsonl", compressed or squeezed
    if path == "-" and (resume or state_path):
        raise click.UsageError("an export to stdout cannot be resumed: name a file")
    job = {
        "command": "export", "table": app.table_name, "file": path, "format": form, "zstd": compressed,
        "hash_filter": hash_filter, "sort_filter": sort_filter,
        "keys": app.out.keys.name, "values": app.out.values.name,
    }  # fmt: skip
    state = State(None if path == "-" else state_path or f"{path}.state", job, resume=resume, overwrite=overwrite)
    if path != "-" and Path(path).is_fifo():
        raise click.UsageError(f"{path} is a pipe, which cannot be resumed: write to -, which is stdout")
    if path != "-" and not resume and not overwrite and os.path.exists(path) and os.path.getsize(path):
        raise click.UsageError(f"{path} exists: add --overwrite to replace it")
    before = state.done
    filters = {"hash_key_filter": app.filter(hash_filter), "sort_key_filter": app.filter(sort_filter)}
    file = _File(path, before.get("offset", 0), compressed=compressed)
    with (
        state.kept(app.out.note),
        Progress("export", before.get("rows", 0), before.get("bytes", 0), quiet=quiet) as progress,
    ):
        limit = Limit(rows_per_second, bytes_per_second, CHUNK_ROWS)
        token = before.get("token")
        source = Source(app.table, progress.note, parallel=parallel, **({"resume": token} if token else filters))

        def position() -> dict[str, Any]:
            return {"offset": file.sync(), "token": source.token(), "rows": progress.rows, "bytes": progress.size}

        begin, encode = encoder(form, app.out.keys, app.out.values)
        checkpoints = Checkpoints(state, checkpoint, position)
        counting = [] if quiet else [_count_beside(progress, app, **filters)]
        try:
            if not before:
                file.write(begin)
                state.save(**position())
            for rows, size in chunks(source.rows(), limit.chunk):
                limit.wait(len(rows), size)
                file.write(encode(rows))
                progress.add(len(rows), size)
                checkpoints.maybe()
            file.sync()
        finally:
            gevent.killall(counting, block=False)
            source.close()
            file.close()
    state.end()
    return _report(app, progress, "exported", beside=path == "-")


# --------------------------------------------------------------------------------------------------------------- import
@command("import")
@options(
    click.argument("path", type=click.Path(), metavar="FILE"),
    format_option,
    click.option(
        "--zstd", "compressed", is_flag=True, default=None, help="The file is compressed [detected from its content]."
    ),
    click.option(
        "--ttl", type=DURATION, metavar="TIME", help="Time to live of all rows [that of each row in the file]."
    ),
    if_absent_option,
    concurrency_option,
    speed_options,
    state_options,
)
@pass_app
def import_(
    app: App,
    path: str,
    form: str | None,
    compressed: bool | None,
    ttl: float | None,
    if_absent: bool,
    concurrency: int,
    rows_per_second: float | None,
    bytes_per_second: int | None,
    quiet: bool,
    state_path: str | None,
    resume: bool,
    checkpoint: float,
) -> int:
    """Store the rows of a file that export wrote, or of stdin (-).

    A JSON line has hash_key, sort_key, value, and expires_at (Unix time) if the row expires; CSV has a first line with
    these names. If rows have the same key, the last one counts (without --if-absent). Expired rows are skipped. A line
    that is not a row is reported and skipped; the exit status is then 5. With --state FILE, --resume continues after a
    kill: it reads the same input again and skips the rows that are stored.
    """
    job = {
        "command": "import", "table": app.table_name, "file": path, "format": form, "ttl": ttl, "if_absent": if_absent,
        "keys": app.out.keys.name, "values": app.out.values.name,
    }  # fmt: skip
    state = State(state_path, job, resume=resume)
    before = state.done
    form, counted, data = open_rows(path, form, compressed)
    progress = Progress("import", before.get("rows", 0), before.get("bytes", 0), quiet=quiet)
    with state.kept(app.out.note), closing(counted), closing(data), progress:
        if path != "-":
            progress.total, progress.done = os.path.getsize(path), lambda: counted.count
        limit = Limit(rows_per_second, bytes_per_second, CHUNK_ROWS)
        target = _target(progress, app.table, concurrency, if_absent=if_absent, ttl=ttl)
        read, cut = before.get("read", 0), False

        def rows() -> Iterator[Any]:
            nonlocal read, cut
            try:
                for found in decoder(form, data, app.out.keys, app.out.values, read):
                    read += 1
                    if isinstance(found, Malformed):
                        progress.error(str(found.args[0]))
                    else:
                        yield found
            except Malformed as error:
                if not read:
                    raise
                cut = True
                progress.error(f"{error.args[0]}; the rest of the file is skipped")

        def position() -> dict[str, Any]:
            return {"read": read, "rows": progress.rows, "bytes": progress.size, "errors": progress.errors}

        checkpoints = Checkpoints(state, checkpoint, position)
        progress.errors = before.get("errors", 0)
        state.save(**position())
        for part, size in chunks(rows(), limit.chunk):
            limit.wait(len(part), size)
            target.write(part)
            progress.add(len(part), size)
            checkpoints.maybe()
        if cut:
            state.save(**position())
    if not cut:
        state.end()
    return _report(app, progress, "imported", skipped=target.skipped)


def _target(progress: Progress, table: Any, concurrency: int, **settings: Any) -> Target:
    def refuse(key: tuple[bytes, bytes], error: PegasusError) -> None:
        progress.error(f"row {_short(key[0])} {_short(key[1])}: {error.args[0]}")

    return Target(table, concurrency=concurrency, note=progress.note, refuse=refuse, **settings)


def _short(key: bytes) -> str:
    text = escape(key[:100])
    return text if len(key) <= 100 else f"{text}..."


# ----------------------------------------------------------------------------------------------------------------- copy
@command("copy")
@options(
    click.option(
        "--to-table", metavar="NAME", help="The target table [the same name].", shell_complete=complete_tables
    ),
    click.option("--to-meta", metavar="HOST:PORT,...", help="Meta servers of the target cluster [the same]."),
    click.option("--to-url", metavar="URL", help="URL of the target cluster, optionally with the table."),
    click.option(
        "--to-cluster", metavar="NAME", help="Target cluster from the config file.", shell_complete=complete_clusters
    ),
    filter_options,
    if_absent_option,
    parallel_option,
    concurrency_option,
    speed_options,
    state_options,
)
@pass_app
def copy(
    app: App,
    to_table: str | None,
    to_meta: str | None,
    to_url: str | None,
    to_cluster: str | None,
    hash_filter: str | None,
    sort_filter: str | None,
    if_absent: bool,
    parallel: int,
    concurrency: int,
    rows_per_second: float | None,
    bytes_per_second: int | None,
    quiet: bool,
    state_path: str | None,
    resume: bool,
    checkpoint: float,
) -> int:
    """Copy the rows of a table to another table, in the same or another cluster.

    Rows keep the time at which they expire. With --state FILE, --resume continues after a kill.
    """
    for name, given in (("table", to_table), ("meta", to_meta), ("url", to_url), ("cluster", to_cluster)):
        if given == "":
            raise click.UsageError(EMPTY.format(f"to-{name}"))
    source_table = app.table
    if to_meta or to_url or to_cluster:
        other = app.client_of(to_meta, to_url, to_cluster)
        metas = find_place(to_meta, to_url, to_cluster, app.settings.config)
        target_table = other.table(to_table or metas.table or source_table.name)
        target_metas = metas.metas
    else:
        target_table, target_metas = app.client.table(to_table or source_table.name), app.metas
    if target_table.name == source_table.name and set(target_metas) == set(app.metas):
        raise click.UsageError("source and target are the same table: give --to-table, or another cluster")
    job = {
        "command": "copy", "table": source_table.name, "to_table": target_table.name, "to": sorted(target_metas),
        "hash_filter": hash_filter, "sort_filter": sort_filter, "if_absent": if_absent,
    }  # fmt: skip
    state = State(state_path, job, resume=resume)
    before = state.done
    filters = {"hash_key_filter": app.filter(hash_filter), "sort_key_filter": app.filter(sort_filter)}
    with (
        state.kept(app.out.note),
        Progress("copy", before.get("rows", 0), before.get("bytes", 0), quiet=quiet) as progress,
    ):
        limit = Limit(rows_per_second, bytes_per_second, CHUNK_ROWS)
        token = before.get("token")
        source = Source(source_table, progress.note, parallel=parallel, **({"resume": token} if token else filters))
        target = _target(progress, target_table, concurrency, if_absent=if_absent)

        def position() -> dict[str, Any]:
            return {"token": source.token(), "rows": progress.rows, "bytes": progress.size}

        checkpoints = Checkpoints(state, checkpoint, position)
        counting = [] if quiet else [_count_beside(progress, app, **filters)]
        try:
            state.save(**position())
            for rows, size in chunks(source.rows(), limit.chunk):
                limit.wait(len(rows), size)
                target.write(rows)
                progress.add(len(rows), size)
                checkpoints.maybe()
        finally:
            gevent.killall(counting, block=False)
            source.close()
    state.end()
    return _report(app, progress, "copied", skipped=target.skipped)


# ---------------------------------------------------------------------------------------------------------------- clear
@command("clear")
@options(
    click.argument("hash_key", metavar="[HASH_KEY]", required=False),
    range_options,
    filter_options,
    click.option("--all", "everything", is_flag=True, help="All rows of the table."),
    parallel_option,
    concurrency_option,
    speed_options,
)
@pass_app
def clear(
    app: App,
    hash_key: str | None,
    hash_filter: str | None,
    sort_filter: str | None,
    everything: bool,
    parallel: int,
    concurrency: int,
    rows_per_second: float | None,
    bytes_per_second: int | None,
    quiet: bool,
    **ranges: Any,
) -> int:
    """Remove rows: of a hash key, of a range, those that match filters, or --all. Asks first.

    After an interruption the same command removes the remaining rows.
    """
    selected = selection(app, sort_filter=sort_filter, **ranges)
    table = app.table
    if hash_key is not None:
        if hash_filter or everything:
            raise click.UsageError("a hash key cannot be combined with --hash-filter or --all")
        first = app.key(hash_key)
        if is_whole(selected) and any(ranges[name] is not None for name in ("start", "stop", "prefix")):
            # A variable may be unset in a script.
            raise click.UsageError("an empty --start, --stop or --prefix selects the whole hash key: omit the option")
        which = "all rows" if is_whole(selected) else "the selected rows"
        what = f"removes {which} of hash key {app.out.keys.encode(first)} in table {table.name}"
        found: Any = ((first, *row) for row in table.hash_scan(first, no_value=True, timeout=TIMEOUT, **selected))
    else:
        if not is_whole({**selected, "filter": None}):
            raise click.UsageError("a range needs a hash key")
        if bool(hash_filter or selected["filter"]) == everything:
            raise click.UsageError("give a hash key, filters, or --all")
        what = f"removes {'ALL ROWS' if everything else 'the rows that match the filters'} of table {table.name}"
        found = table.scan(
            hash_key_filter=app.filter(hash_filter),
            sort_key_filter=selected["filter"],
            no_value=True,
            parallel=parallel,
            timeout=TIMEOUT,
        )
    app.confirm(what)
    with Progress("clear", quiet=quiet) as progress:
        limit = Limit(rows_per_second, bytes_per_second, CHUNK_ROWS)
        target = _target(progress, table, concurrency)
        for rows, size in chunks(found, limit.chunk):
            limit.wait(len(rows), size)
            target.remove([row[:2] for row in rows])
            progress.add(len(rows), size)
    return _report(app, progress, "removed")
