"""The embedded cluster: a whole Pegasus over real TCP, for tests and for trying things out.

As in ``pegasus_green``, what a name needs is loaded when the name is first used: pytest loads the plugin in here into
every run of its environment, and a test suite that patches itself must be able to do so before gevent is there.
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

# Where each public name lives.
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

if not TYPE_CHECKING:  # a checker is to find a misspelt name

    def __getattr__(name: str) -> Any:
        """Load a public name, once: it is an ordinary attribute from then on."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        """List the public names, loaded or not."""
        return sorted({*globals(), *__all__})
