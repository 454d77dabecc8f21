"""The progress of a long command on disk, so that it can continue after a kill."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ...errors import PegasusError
from ..threads import in_thread

VERSION = 1


class State:
    """A state file.

    It is replaced as a whole, so a kill leaves either the old or the new one.

    Attributes:
        path: The file; None: the command has none.
        job: The job; a resumed command must have the same one.
        done: The progress.
    """

    def __init__(self, path: str | None, job: dict[str, Any], *, resume: bool, overwrite: bool = False) -> None:
        """Start, or read the progress of an earlier run.

        Raises:
            UsageError: There is a file and no ``resume``, or ``resume`` and no file, or the job differs.
        """
        self.path = None if path is None else Path(path)
        self.job = job
        self.done: dict[str, Any] = {}
        if self.path is None:
            if resume:
                raise click.UsageError("--resume needs the state file: give --state FILE")
            return
        if resume:
            self._read(self.path)
        elif self.path.exists() and not overwrite:
            raise click.UsageError(
                f"{self.path} is the state of an unfinished run: add --resume to continue it, or remove the file"
            )

    def _read(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text())
            version, job, self.done = found["version"], found["job"], found["done"]
        except FileNotFoundError:
            # The earlier run was killed before its first checkpoint, or has finished.
            raise click.UsageError(f"there is no state file {path}: nothing to resume") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise click.UsageError(f"the state file {path} cannot be read: {error}") from None
        if version != VERSION:
            raise click.UsageError(f"the state file {path} has version {version}, not {VERSION}")
        other = [name for name in self.job if job.get(name) != self.job[name]]
        if other:
            name = other[0]
            raise click.UsageError(
                f"the state file {path} belongs to another job: its {name} is {job.get(name)!r}, not {self.job[name]!r}"
            )

    def save(self, **done: Any) -> None:
        """Store the progress; return after it is on disk."""
        self.done = done
        if self.path is not None:
            text = json.dumps({"version": VERSION, "job": self.job, "done": done}, indent=1)
            in_thread(_replace, self.path, text)

    @contextlib.contextmanager
    def kept(self, note: Callable[[str], object]) -> Iterator[None]:
        """If the command is interrupted or fails, print how to resume it."""
        try:
            yield
        except (KeyboardInterrupt, PegasusError, OSError):
            if self.path is not None and self.path.exists():
                note(f"{self.path} has the progress: run the same command with --resume to continue")
            raise

    def end(self) -> None:
        """Remove the file, because nothing is left to resume."""
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
