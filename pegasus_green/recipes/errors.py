"""Errors of the recipes."""

from __future__ import annotations

from ..errors import ForkedConnection, PegasusError

# Maximum number of writes of one step whose outcome is unknown. The last one raises its error.
MOST_DOUBTFUL = 3


class RecipeError(PegasusError):
    """Root of the errors that only recipes raise."""


class LockError(RecipeError):
    """An operation on a lock, semaphore or election is not possible."""


class LockNotOwnedError(LockError):
    """The lease has ended: it expired or was removed. Another caller may hold it now."""


class AlreadyRunning(RecipeError):
    """Another caller runs the function for this key now, and ``wait`` is False."""


def is_doubtful(error: PegasusError) -> bool:
    """Tell whether a write of this process may have been applied, so that the recipe must repeat it or read.

    In a forked child, a call that waited at the fork is a copy. The parent has the call, and learns its outcome.
    """
    return error.outcome_unknown and not isinstance(error, ForkedConnection)
