"""Scans: every row exactly once, whatever happens to servers, primaries and partitions meanwhile.

``query`` says what is wanted, ``parts`` what is left to read, ``work`` who shares it, ``batch`` gets one batch,
``sources`` decide who reads, ``iterator`` hands the rows out, ``token`` lets another process go on.
"""

from __future__ import annotations

from .iterator import Scanner
from .parts import Ledger, Part, plan, scan_hash
from .query import MAX_BATCH, Query
from .sources import Parallel, Sequential
from .token import Token, decode
from .work import Work

__all__ = [
    "MAX_BATCH",
    "Ledger",
    "Parallel",
    "Part",
    "Query",
    "Scanner",
    "Sequential",
    "Token",
    "Work",
    "decode",
    "plan",
    "scan_hash",
]
