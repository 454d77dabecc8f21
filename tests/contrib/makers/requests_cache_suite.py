"""The suites that requests-cache has for its storages and caches, with ours; `tests` is requests-cache's here."""

from __future__ import annotations

import os
from typing import Any

from tests.integration.base_cache_test import BaseCacheTest
from tests.integration.base_storage_test import BaseStorageTest

from pegasus_green.contrib.requests_cache import PegasusCache, PegasusDict

URL = os.environ["SUITE_URL"]


class Storage(PegasusDict):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(URL, *arguments, **options)


class Cache(PegasusCache):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(URL, *arguments, **options)


class TestJson(BaseStorageTest):
    storage_class = Storage


class TestPickle(BaseStorageTest):
    storage_class = Storage
    init_kwargs = {"serializer": "pickle"}
    picklable = True


class TestText(BaseStorageTest):
    storage_class = Storage
    init_kwargs = {"serializer": None}

    def test_cache_key(self) -> None:
        """Skipped: without a serializer there are no responses."""


class TestCache(BaseCacheTest):
    backend_class = Cache
