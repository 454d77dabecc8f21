"""Django's own cache and session tests against the backend: `python -m tests.contrib.makers.django_suite TESTS URL`.

TESTS is the directory of tests in Django's sdist. Each run has a process of its own, as Django has one configuration.
"""

from __future__ import annotations

import inspect
import sys
import unittest
from typing import Any

from gevent import monkey

BACKEND = "pegasus_green.contrib.django.PegasusCache"


def configure(url: str) -> None:
    """Set Django up with the backend as its only cache."""
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        CACHES={"default": {"BACKEND": BACKEND, "LOCATION": url}},
        CACHE_MIDDLEWARE_KEY_PREFIX="suite",
        DATABASES={name: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"} for name in ("default", "other")},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.sessions", "cache", "sessions_tests"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        ROOT_URLCONF="urls",
        SECRET_KEY="suite",
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        USE_TZ=False,
    )
    django.setup()


def cases(url: str) -> list[type[unittest.TestCase]]:
    """Return Django's test classes for cache backends, adapted to this backend."""
    from cache.tests import BaseCacheTests, caches_setting_for_tests
    from django.contrib.sessions.backends.cache import SessionStore as CacheStore
    from django.contrib.sessions.backends.cached_db import SessionStore as CachedDatabaseStore
    from django.test import TestCase, override_settings
    from sessions_tests.tests import CacheSessionTests, SessionTestsMixin

    # Nothing is culled, as in the Redis backend; the tests skip what is not configured.
    setting = caches_setting_for_tests(BACKEND=BACKEND, LOCATION=url, exclude={"cull", "zero_cull"})

    class Cache(BaseCacheTests, TestCase):
        pass

    class CacheSessions(CacheSessionTests):
        backend = CacheStore

    class CachedDatabaseSessions(SessionTestsMixin, TestCase):
        backend = CachedDatabaseStore

    return [override_settings(CACHES=setting)(Cache), CacheSessions, CachedDatabaseSessions]


def left_out(test: unittest.TestCase) -> bool:
    """Return whether a test is skipped in this mode.

    Under monkey patching asyncio is not for use: its threads are greenlets of the thread in which its loop runs.
    """
    is_async = inspect.iscoroutinefunction(getattr(test, test.id().rpartition(".")[2]))
    return is_async and bool(monkey.is_module_patched("threading"))


def main(tests: str, url: str) -> int:
    """Run the suite and return the exit status."""
    sys.path.insert(0, tests)
    configure(url)
    from django.test.runner import DiscoverRunner

    class Runner(DiscoverRunner):
        def build_suite(self, *_args: Any, **_kwargs: Any) -> unittest.TestSuite:
            load = unittest.defaultTestLoader.loadTestsFromTestCase
            found: list[Any] = [test for case in cases(url) for test in load(case)]
            return unittest.TestSuite(test for test in found if not left_out(test))

    return int(bool(Runner(verbosity=1).run_tests([])))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
