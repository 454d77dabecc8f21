"""Ready solutions on top of a table: locks, elections, limits, counters, sets, and work that is done once.

Each of them is a class that takes a ``Table``, and any number of greenlets and processes may use the same name at the
same time. The docstrings say which records they write and what happens when a reply is lost; docs/recipes.md compares
them.

Example:
    >>> from pegasus_green.recipes import Lock
    >>> with Lock(table, "report:7", timeout=10) as lock:
    ...     lock.owned()
    True
"""

from .counters import Counter
from .errors import AlreadyRunning, LockError, LockNotOwnedError, RecipeError
from .limits import Allowance, RateLimiter
from .locks import Leader, Lock, Semaphore
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
