"""The examples in the docstrings of the verbs do what they show."""

from __future__ import annotations

import doctest
import importlib
import inspect
from types import ModuleType

import pytest

import pegasus_green
from pegasus_green import Client
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs

__all__ = ["no_client_bugs"]

MODULES = [
    "admin",
    "client",
    "codecs",
    "mapping",
    "model",
    "operations.asynchronous",
    "operations.atomic",
    "operations.batch",
    "operations.many",
    "operations.multi",
    "operations.ranges",
    "operations.scans",
    "operations.single",
    "scanner.iterator",
]
# Examples that show the embedded cluster's own tables.
ONEBOX_ONLY = ("Admin", "Admin.partitions", "Admin.create_table")
HASH_KEYS = ("user:1", "user:2", "user:7", "job:7", "log:7", "page:1", "nobody", "http://example.org/")
# What the examples that make a client of their own call the cluster and its table.
META, TABLE = "127.0.0.1:34601", ("/temp?", 'table("temp")')


def _verbs() -> list[tuple[str, str]]:
    found = []
    for name in MODULES:
        module = importlib.import_module(f"pegasus_green.{name}")
        tests = doctest.DocTestFinder(exclude_empty=True).find(module)
        found += [(name, test.name.removeprefix(f"{module.__name__}.")) for test in tests if test.examples]
    return found


@pytest.mark.parametrize(("module_name", "verb"), _verbs(), ids=lambda part: part)
def test_the_example_runs(cluster: Cluster, client: Client, module_name: str, verb: str) -> None:
    if cluster.is_real and verb in ONEBOX_ONLY:
        pytest.skip("shows the embedded cluster's tables")
    module = importlib.import_module(f"pegasus_green.{module_name}")
    table = client.table(cluster.table)
    for hash_key in HASH_KEYS:
        table.del_range(hash_key)
    names = {**vars(pegasus_green), **vars(module), **_everything(), "client": client, "table": table}
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=names):
        if test.name == f"{module.__name__}.{verb}":
            for example in test.examples:
                example.source = example.source.replace(META, cluster.metas[0])
                for text in TABLE:
                    example.source = example.source.replace(text, text.replace("temp", cluster.table))
            failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
            assert (failed, tried) == (0, len(test.examples))


def _everything() -> dict[str, object]:
    return {name: getattr(pegasus_green, name) for name in pegasus_green.__all__}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("operations.")])
def test_every_verb_has_an_example_and_says_what_a_repeat_and_a_kill_do(name: str) -> None:
    module: ModuleType = importlib.import_module(f"pegasus_green.{name}")
    classes = [
        value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    for verb in (verb for cls in classes if cls.__name__.endswith("Operations") for verb in vars(cls).values()):
        if inspect.isfunction(verb) and not verb.__name__.startswith("_") and verb.__name__ != "mapping":
            text = inspect.getdoc(verb) or ""
            missing = [part for part in ("Args:", "Raises:", "Retries:", "Greenlets:", "Example:") if part not in text]
            assert not missing, f"{verb.__qualname__} lacks {missing}"
