"""cachelib's classes of tests with our cache; the modules beside which they lie are on sys.path."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

from pegasus_green.contrib.cachelib import PegasusCache

# Later releases have more of them.
NAMES = {
    "common": "CommonTests",
    "clear": "ClearTests",
    "has": "HasTests",
    "delete_many_with_prefix": "DeleteManyWithPrefixTests",
    "serializer": "SerializerTests",
}


def bases() -> tuple[type, ...]:
    """Return the classes that this release has."""
    found = []
    for module, name in NAMES.items():
        try:
            found.append(getattr(importlib.import_module(module), name))
        except ModuleNotFoundError:
            print(f"this release of cachelib has no {name}")
    return tuple(found)


class TestPegasusCache(*bases()):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def factory(self, request: pytest.FixtureRequest) -> None:
        def make(_self: Any, *args: Any, **options: Any) -> PegasusCache:
            options.setdefault("key_prefix", getattr(request, "param", None) or "suite:")
            cache = PegasusCache(os.environ["SUITE_URL"], *args, **options)
            cache.clear()
            return cache

        request.cls.cache_factory = make
