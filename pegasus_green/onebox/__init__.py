"""The embedded cluster: a whole Pegasus over real TCP, for tests and for trying things out."""

from __future__ import annotations

from .box import Onebox
from .faults import Fault
from .process import OneboxProcess
from .settings import Settings
from .storage import Limits

__all__ = ["Fault", "Limits", "Onebox", "OneboxProcess", "Settings"]
