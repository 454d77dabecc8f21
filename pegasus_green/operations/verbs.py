"""All verbs of a table."""

from __future__ import annotations

import inspect

from ..results import V
from .atomic import AtomicOperations
from .batch import BatchOperations
from .single import SingleOperations
from .streams import StreamOperations


class Verbs(
    SingleOperations[V],
    AtomicOperations[V],
    BatchOperations[V],
    StreamOperations[V],
):
    """All operations on the records of a table. Each verb has an ``*_async`` twin that returns a ``Handle``."""

    __slots__ = ()


def _name_after_table() -> None:
    """Make TypeErrors and tracebacks name ``Table.set``, not the class that defines the verb."""
    for owner in Verbs.__mro__:
        for name, verb in vars(owner).items():
            if owner.__module__.startswith(__package__) and inspect.isfunction(verb) and not name.startswith("_"):
                verb.__qualname__ = f"Table.{name}"


_name_after_table()
