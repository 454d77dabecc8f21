"""Recipes on top of a table: locks, elections, rate limits, counters, sets, and work that runs once.

Each recipe is a class that takes a ``Table``. Any number of greenlets and processes may use the same name at the same
time. The docstrings describe the records that they write and the effect of a lost reply. docs/recipes.md compares
them.

Example:
    >>> from pegasus_green.recipes import Lock
    >>> with Lock(table, "report:7", timeout=10) as lock:
    ...     lock.owned()
    True
"""

from .counters import Counter
from .errors import AlreadyRunning, LockError, LockNotOwnedError, RecipeError
from .leader import Leader
from .limits import Allowance, RateLimiter
from .locks import Lock, Semaphore
from .once import Once, Singleflight
from .sets import Frontier, Job, SeenSet

__all__ = [
    "AlreadyRunning",
    "Allowance",
    "Counter",
    "Frontier",
    "Job",
    "Leader",
    "Lock",
    "LockError",
    "LockNotOwnedError",
    "Once",
    "RateLimiter",
    "RecipeError",
    "SeenSet",
    "Semaphore",
    "Singleflight",
]
