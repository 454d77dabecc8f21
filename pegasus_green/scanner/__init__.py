"""Scans: every row exactly once, also if servers fail, primaries move or the table splits meanwhile.

``query`` is the selection, ``parts`` is what is left to read, ``work`` is the state that readers share, ``batch`` reads
one batch, ``sources`` read parts one by one or in parallel, ``iterator`` returns the rows, ``token`` resumes a scan.
"""

from __future__ import annotations

from .iterator import Scanner
from .parts import Ledger, Part, plan, scan_hash
from .query import MAX_BATCH, Query
from .sources import Parallel, Sequential
from .token import Token, decode
from .work import Start, Work

__all__ = [
    "MAX_BATCH",
    "Ledger",
    "Parallel",
    "Part",
    "Query",
    "Scanner",
    "Sequential",
    "Start",
    "Token",
    "Work",
    "decode",
    "plan",
    "scan_hash",
]
