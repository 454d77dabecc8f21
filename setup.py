"""Build the optional compiled core. All other metadata is in pyproject.toml."""

from __future__ import annotations

import os

from setuptools import Extension, setup

# The limited API of CPython 3.10: one build works with all newer versions. Without a compiler the pure code is used.
CORE = Extension("pegasus_green._core", ["pegasus_green/_core.c"], optional=True, py_limited_api=True)
PURE = os.environ.get("PEGASUS_GREEN_PURE") == "1"

setup(
    ext_modules=[] if PURE else [CORE],
    options={} if PURE else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
