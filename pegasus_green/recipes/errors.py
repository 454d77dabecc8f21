"""Errors of the recipes."""

from __future__ import annotations

from ..errors import PegasusError


class RecipeError(PegasusError):
    """Root of the errors that only recipes raise."""


class LockError(RecipeError):
    """An operation on a lock, semaphore or election is not possible."""


class LockNotOwnedError(LockError):
    """The lease has ended: it expired or was removed. Another caller may hold it now."""


class AlreadyRunning(RecipeError):
    """Another caller runs the function for this key now, and ``wait`` is False."""
