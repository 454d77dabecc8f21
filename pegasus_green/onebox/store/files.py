"""The files of a onebox: one SQLite database in write-ahead mode, and the lock of the directory.

SQLite comes with Python. It has a checksum for every record of its log, and drops an incomplete tail when it opens. A
finished commit has reached the kernel, so it survives the end of the process. The option ``sync`` adds an fsync, so
that it also survives a loss of power. All functions here block, so they run in a separate thread.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..engine.records import Record

VERSION = 1
DATABASE, LOCK = "onebox.db", "lock"
CACHE_KB = 32 * 1024
# A partition: its app id and its index.
Part = tuple[int, int]
Batch = Iterable[tuple[bytes, "Record | None"]]
# ("write", part, decree, batch), ("copy", part, part), ("forget", app_id) or ("tables", JSON).
Operation = tuple[Any, ...]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (part INTEGER PRIMARY KEY, decree INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    part INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, expire INTEGER NOT NULL, PRIMARY KEY (part, key)
) WITHOUT ROWID;
"""
# The directories that this process has open. A file lock does not exclude its own process.
_open: set[str] = set()


class DirectoryInUse(OSError):
    """Another onebox uses the directory."""


def number_of(part: Part) -> int:
    """Return a partition as a number."""
    return part[0] << 32 | part[1]


class Files:
    """An open directory."""

    def __init__(self, folder: str | os.PathLike[str], *, sync: bool = False) -> None:
        """Open a directory. Create it if it does not exist.

        Args:
            folder: The directory.
            sync: fsync every commit, so that it is on the disk and not only in the kernel.

        Raises:
            DirectoryInUse: Another onebox uses it.
            OSError: It cannot be created or opened.
            ValueError: Its files have another version, or its database is damaged.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._name = str(self.folder.resolve())
        self._lock = self._take()
        try:
            self._db = self._connect(sync)
        except sqlite3.Error as error:
            self._release()
            raise ValueError(f"{self.folder / DATABASE} cannot be opened: {error}") from None
        except BaseException:
            self._release()
            raise

    def _take(self) -> int:
        if self._name in _open:
            raise DirectoryInUse(f"the data directory {self.folder} is in use by another onebox of this process")
        lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # The lock belongs to the process, not to the descriptor: a forked child does not have it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(lock, 32).decode("ascii", "replace").strip()
            os.close(lock)
            raise DirectoryInUse(
                f"the data directory {self.folder} is in use by another onebox, process {owner or 'unknown'}"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        _open.add(self._name)
        return lock

    def _release(self) -> None:
        _open.discard(self._name)
        os.close(self._lock)

    def _connect(self, sync: bool) -> sqlite3.Connection:
        # Transactions are explicit below. One thread at a time uses the connection.
        db = sqlite3.connect(self.folder / DATABASE, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if sync else 'OFF'}")
            db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            db.executescript(_SCHEMA)
            version = int(self._fact(db, "version") or VERSION)
            if version != VERSION:
                raise ValueError(f"{self.folder} has data of version {version}; this onebox reads version {VERSION}")
            db.execute("INSERT OR REPLACE INTO facts VALUES ('version', ?)", (str(VERSION),))
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _fact(db: sqlite3.Connection, name: str) -> str | None:
        row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    # -------------------------------------------------------------------------------------------------------- reading
    def tables(self) -> str | None:
        """Return the last written description of the tables; None if there is none."""
        return self._fact(self._db, "tables")

    def opened(self) -> int:
        """Count an opening; return the number of openings with this one."""
        count = int(self._fact(self._db, "opened") or 0) + 1
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('opened', ?)", (str(count),))
        return count

    def decrees(self) -> dict[Part, int]:
        """Return the last written decree of each partition."""
        found = self._db.execute("SELECT part, decree FROM parts")
        return {(number >> 32, number & 0xFFFFFFFF): decree for number, decree in found}

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def rows(self, part: Part) -> list[tuple[bytes, Record]]:
        """Return the rows of a partition in the order of their keys."""
        found = self._db.execute("SELECT key, value, expire FROM rows WHERE part = ? ORDER BY key", (number_of(part),))
        return [(key, (value, expire)) for key, value, expire in found]

    # -------------------------------------------------------------------------------------------------------- writing
    def commit(self, operations: Iterable[Operation]) -> None:
        """Write all operations; if it raises, none is written.

        Raises:
            OSError: The disk refuses it.
        """
        try:
            self._db.execute("BEGIN")
            try:
                self._write(iter(operations))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise OSError(f"{self.folder / DATABASE}: {error}") from error

    def _write(self, operations: Iterator[Operation]) -> None:
        rows: dict[tuple[int, bytes], Record | None] = {}
        decrees: dict[int, int] = {}
        for kind, *arguments in operations:
            if kind == "write":
                part, decree, batch = arguments
                number = number_of(part)
                decrees[number] = decree
                for key, record in batch:
                    rows[number, key] = record
                continue
            # The other operations use the rows of the database.
            self._write_rows(rows, decrees)
            rows, decrees = {}, {}
            if kind == "copy":
                source, target = map(number_of, arguments)
                self._db.execute("DELETE FROM rows WHERE part = ?", (target,))
                self._db.execute(
                    "INSERT INTO rows SELECT ?, key, value, expire FROM rows WHERE part = ?", (target, source)
                )
                self._db.execute(
                    "INSERT OR REPLACE INTO parts SELECT ?, decree FROM parts WHERE part = ?", (target, source)
                )
            elif kind == "forget":
                first = arguments[0] << 32
                for table in ("rows", "parts"):
                    self._db.execute(f"DELETE FROM {table} WHERE part BETWEEN ? AND ?", (first, first | 0xFFFFFFFF))
            else:
                self._db.execute("INSERT OR REPLACE INTO facts VALUES ('tables', ?)", arguments)
        self._write_rows(rows, decrees)

    def _write_rows(self, rows: dict[tuple[int, bytes], Record | None], decrees: dict[int, int]) -> None:
        gone = [place for place, record in rows.items() if record is None]
        there = [(*place, *record) for place, record in rows.items() if record is not None]
        if gone:
            self._db.executemany("DELETE FROM rows WHERE part = ? AND key = ?", gone)
        if there:
            self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", there)
        if decrees:
            self._db.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?)", decrees.items())

    def close(self) -> None:
        """Close the files. The log becomes part of the database."""
        try:
            self._db.close()
        finally:
            self._release()
