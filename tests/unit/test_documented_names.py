"""Test the documented API: names, parameters and their order, defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import pegasus_green
from pegasus_green import MultiGetOptions, Pegasus, PegasusScanner, ScanOptions

REQUIRED = inspect.Parameter.empty
KEYS = (("hash_key", REQUIRED), ("sort_key", REQUIRED))
LIMITS = (("max_kv_count", 100), ("max_kv_size", 1000000))
TIMEOUT = ("timeout", 0)
# The documented tables: name -> parameters with their defaults, in order.
DOCUMENTED: dict[str, tuple[tuple[str, Any], ...]] = {
    "init": (),
    "close": (),
    "ttl": (*KEYS, TIMEOUT),
    "exist": (*KEYS, TIMEOUT),
    "set": (*KEYS, ("value", REQUIRED), ("ttl", 0), TIMEOUT),
    "multi_set": (("hash_key", REQUIRED), ("sortkey_value_dict", REQUIRED), ("ttl", 0), TIMEOUT),
    "get": (*KEYS, TIMEOUT),
    "multi_get": (("hash_key", REQUIRED), ("sortkey_set", REQUIRED), *LIMITS, ("no_value", False), TIMEOUT),
    "multi_get_opt": (
        ("hash_key", REQUIRED),
        ("start_sort_key", REQUIRED),
        ("stop_sort_key", REQUIRED),
        ("multi_get_options", REQUIRED),
        *LIMITS,
        TIMEOUT,
    ),
    "remove": (*KEYS, TIMEOUT),
    "multi_del": (("hash_key", REQUIRED), ("sortkey_set", REQUIRED), TIMEOUT),
    "sort_key_count": (("hash_key", REQUIRED), TIMEOUT),
    "get_sort_keys": (("hash_key", REQUIRED), *LIMITS, TIMEOUT),
    "get_scanner": (
        ("hash_key", REQUIRED),
        ("start_sort_key", REQUIRED),
        ("stop_sort_key", REQUIRED),
        ("scan_options", REQUIRED),
    ),
    "get_unordered_scanners": (("max_split_count", REQUIRED), ("scan_options", REQUIRED)),
}


def parameters(function: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    found = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in found)
    return tuple((p.name, p.default) for p in found)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_parameters_and_defaults(name: str) -> None:
    assert parameters(getattr(Pegasus, name)) == DOCUMENTED[name]
    for (_, documented), (_, ours) in zip(DOCUMENTED[name], parameters(getattr(Pegasus, name))):
        assert type(documented) is type(ours)


def test_constructors() -> None:
    assert parameters(Pegasus.__init__) == (("meta_addrs", None), ("table_name", ""), ("timeout", 2000))
    assert parameters(ScanOptions.__init__) == parameters(MultiGetOptions.__init__) == ()


def test_scanner_methods() -> None:
    assert parameters(PegasusScanner.get_next) == parameters(PegasusScanner.close) == ()


def test_names_can_be_imported() -> None:
    for name in ("Pegasus", "PegasusScanner", "ScanOptions", "MultiGetOptions", "filter_type", "error_types"):
        assert name in pegasus_green.__all__
    public = {name for name in vars(Pegasus) if not name.startswith("_")}
    assert public == set(DOCUMENTED), "more or less than is documented"
