"""The errors of the recipes."""

from __future__ import annotations

from ..errors import PegasusError


class RecipeError(PegasusError):
    """Root of the errors that the recipes add to those of the client."""


class LockError(RecipeError):
    """A lock, semaphore or election could not do what it was asked for."""


class LockNotOwnedError(LockError):
    """The lease ended before: it expired, or somebody else holds it now."""


class AlreadyRunning(RecipeError):
    """Another caller runs the function of this key now, and the caller does not want to wait."""
