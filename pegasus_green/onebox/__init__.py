"""The embedded cluster: a complete Pegasus over real TCP, for tests and trials.

As in ``pegasus_green``, each public name is loaded when it is first used. pytest loads the plugin of this package in
every run, and a test suite that patches itself must do so before gevent is loaded.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .control.box import Onebox
    from .control.process import OneboxProcess
    from .control.secured import SecuredOnebox
    from .engine.state import Limits
    from .kdc import Kdc
    from .runtime.auth import OneboxAuth
    from .runtime.settings import Settings
    from .wire.faults import Fault

# The module of each public name.
_HOMES = {
    "Fault": "wire.faults",
    "Kdc": "kdc",
    "Limits": "engine.state",
    "Onebox": "control.box",
    "OneboxAuth": "runtime.auth",
    "OneboxProcess": "control.process",
    "SecuredOnebox": "control.secured",
    "Settings": "runtime.settings",
}

__all__ = ["Fault", "Kdc", "Limits", "Onebox", "OneboxAuth", "OneboxProcess", "SecuredOnebox", "Settings"]

if not TYPE_CHECKING:  # so that type checkers find misspelt names

    def __getattr__(name: str) -> Any:
        """Load a public name and store it as a module attribute."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        """List the public names, loaded or not."""
        return sorted({*globals(), *__all__})
