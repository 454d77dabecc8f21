"""The compiled core, or None if ``pip install`` found no compiler.

Every function of the core has a twin in pure Python, next to the code that uses it, with the same results. With
``PEGASUS_GREEN_PURE=1`` in the environment the process uses only the Python code.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any


def _load() -> Any:
    if os.environ.get("PEGASUS_GREEN_PURE") == "1":
        return None
    try:
        return import_module("pegasus_green._core")
    except ImportError:
        return None


core: Any = _load()
accelerated: bool = core is not None
"""Whether calls use the compiled core. It is False with ``PEGASUS_GREEN_PURE=1`` in the environment, and if the core
was not built, because ``pip install`` found no compiler."""

if TYPE_CHECKING or core is None:

    class Books:
        """The attributes of a connection that every call reads or changes."""

        __slots__ = (
            "session",
            "peer",
            "pending",
            "_out",
            "_out_bytes",
            "_backlog",
            "_leaving",
            "lost",
            "_room",
            "_keeper",
            "_chunk",
            "_wake_at",
            "_timer_at",
            "heard",
            "silent_since",
            "_small",
            "_share",
            "_max_frame",
            "_max_in_flight",
            "_version",
            "_fd",
            "_crowded",
            "_in_pass",
            "_has_read",
            "_referenced",
            "_plain",
            "_flush_callback",
        )
        flush: Any
        arrived: Any

else:
    Books = core.Books
