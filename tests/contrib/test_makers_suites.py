"""Run the test suites of the frameworks against the backends of this package."""

from __future__ import annotations

import re

import pytest

from tests.contrib.suites import run_program, run_suite, suite

# On a busy machine they take long.
pytestmark = pytest.mark.watchdog(300)


def passed(output: str) -> int:
    """Return how many tests pytest says have passed."""
    return int(re.findall(r"(\d+) passed", output)[-1])


def test_the_suite_of_cachelib_passes(url: str) -> None:
    assert passed(run_suite("cachelib_suite", "-p", "conftest", path=suite("cachelib") / "tests", url=url)) >= 10


def test_the_suite_of_dogpile_passes(url: str) -> None:
    assert passed(run_suite("dogpile_suite", url=url)) >= 25


def test_the_suite_of_requests_cache_passes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_PYTEST_HTTPBIN", "true")
    assert (
        passed(run_suite("requests_cache_suite", "-p", "tests.conftest", path=suite("requests-cache"), url=url)) > 100
    )


def test_the_suite_of_django_passes(url: str) -> None:
    output = run_program("django_suite", str(suite("django") / "tests"), url, url=url)
    assert int(re.findall(r"Ran (\d+) tests", output)[-1]) > 130
