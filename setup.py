"""The optional compiled core; all other metadata stands in pyproject.toml."""

from __future__ import annotations

import os

from setuptools import Extension, setup

# Limited API of CPython 3.10: one build serves it and all newer ones. Optional: without a compiler the pure code runs.
CORE = Extension("pegasus_green._core", ["pegasus_green/_core.c"], optional=True, py_limited_api=True)
PURE = os.environ.get("PEGASUS_GREEN_PURE") == "1"

setup(
    ext_modules=[] if PURE else [CORE],
    options={} if PURE else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
