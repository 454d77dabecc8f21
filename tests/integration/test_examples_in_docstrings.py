"""Test that the examples in the docstrings of the verbs run and give the shown results."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

import pegasus_green
from pegasus_green import Client, Pegasus
from pegasus_green.onebox import Onebox
from tests.conftest import Cluster
from tests.integration.helpers import no_client_bugs

__all__ = ["no_client_bugs"]

ONEBOX = (
    "onebox.control.assembly",
    "onebox.control.box",
    "onebox.control.facts",
    "onebox.control.failures",
    "onebox.control.tables",
    "onebox.replication.cluster",
)
MODULES = [
    "admin",
    "admin.access",
    "admin.servers",
    "auth",
    "client",
    "codecs",
    "console.app",
    "console.server",
    "events",
    "keys",
    "mapping",
    "model",
    *ONEBOX,
    "operations.asynchronous",
    "operations.atomic",
    "operations.batch",
    "operations.many",
    "operations.multi",
    "operations.ranges",
    "operations.scans",
    "operations.single",
    "operations.streams",
    "operations.verbs",
    "options",
    "pegasus",
    "recipes",
    "recipes.counters",
    "recipes.limits",
    "recipes.leader",
    "recipes.locks",
    "recipes.once",
    "recipes.sets",
    "results",
    "retry",
    "scanner.iterator",
    "shared",
]
HANDLE = tuple(f"pegasus_green.{name}" for name in ONEBOX if name.split(".")[-1] not in ("assembly", "cluster"))
# Examples that change or show a whole cluster; each gets its own.
WHOLE_CLUSTER = ("admin", "admin.access", "admin.servers", *ONEBOX)
# Others that show how many servers the embedded cluster has.
ONEBOX_ONLY = ("Table.warm_up",)
HASH_KEYS = ("hkey1", "user:1", "user:2", "user:7", "job:7", "log:7", "page:1", "nobody", "http://example.org/")
# The addresses and the table name in the examples.
META, TABLE = "127.0.0.1:34601", ("/temp?", '"temp"')
# Methods without an example, and the reasons.
WITHOUT = {
    "CheckType.is_integer": "a property that says all by its name",
    "CheckType.takes_operand": "a property that says all by its name",
    "Codec.decode": "a protocol: the class shows a codec",
    "Codec.encode": "a protocol: the class shows a codec",
    "Kerberos.mechanism": "called by the client: the class shows it",
    "Listener.call_finished": "called by the client: Client.add_listener shows it",
    "Listener.call_started": "called by the client: Client.remove_listener shows it",
    "Listener.connection_lost": "called by the client: the class shows it",
    "Listener.connection_opened": "called by the client: the class shows another",
    "Listener.routes_changed": "called by the client: the class shows another",
    "PartitionInfo.is_healthy": "a property: Admin.partitions shows it",
}


def _verbs() -> list[tuple[str, str]]:
    found = []
    for name in MODULES:
        module = importlib.import_module(f"pegasus_green.{name}")
        tests = doctest.DocTestFinder(exclude_empty=True).find(module)
        # Examples that need a KDC are marked to be skipped.
        run = [test for test in tests if not all(doctest.SKIP in example.options for example in test.examples)]
        found += [(name, test.name.removeprefix(f"{module.__name__}.")) for test in run]
    return found


@contextmanager
def _fresh_cluster() -> Iterator[Cluster]:
    """Serve a cluster that an example may change: it has what the fixture's has."""
    with Onebox(replicas=3, metas=1, tables={"temp": 8}, strict=True, split_control_delay=0.05) as box:
        yield Cluster(list(box.meta_addresses), "temp", is_real=False, box=box)
        assert (box.client_bugs, box.errors) == ([], [])


@pytest.mark.parametrize(("module_name", "verb"), _verbs(), ids=lambda part: part)
def test_an_example_in_a_docstring_runs(cluster: Cluster, client: Client, module_name: str, verb: str) -> None:
    if cluster.is_real and (module_name in WHOLE_CLUSTER or verb in ONEBOX_ONLY):
        pytest.skip("shows the embedded cluster, or changes all of it")
    if module_name in WHOLE_CLUSTER:
        with _fresh_cluster() as fresh, Client(fresh.metas) as other:
            _run(fresh, other, module_name, verb)
    else:
        _run(cluster, client, module_name, verb)


def _run(cluster: Cluster, client: Client, module_name: str, verb: str) -> None:
    module = importlib.import_module(f"pegasus_green.{module_name}")
    table = client.table(cluster.table)
    if module_name not in WHOLE_CLUSTER:
        for hash_key in HASH_KEYS:
            table.del_range(hash_key)
    names = {**vars(pegasus_green), **vars(module), **_everything(), "client": client, "table": table}
    names.update(box=cluster.box, Onebox=Onebox)
    official = Pegasus(cluster.metas, cluster.table)
    if module_name == "pegasus":
        assert official.init()
        names["c"] = official
    try:
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=names):
            if test.name == f"{module.__name__}.{verb}":
                for example in test.examples:
                    example.source, example.want = _here(example.source, cluster), _here(example.want, cluster)
                failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
                assert (failed, tried) == (0, len(test.examples))
    finally:
        official.close()


def _here(text: str, cluster: Cluster) -> str:
    """Return the text of an example with the addresses and the table of this cluster."""
    text = text.replace(META, cluster.metas[0])
    for name in TABLE:
        text = text.replace(name, name.replace("temp", cluster.table))
    return text


def _everything() -> dict[str, object]:
    return {name: getattr(pegasus_green, name) for name in pegasus_green.__all__}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("operations.")])
def test_every_verb_documents_an_example_retries_and_greenlets(name: str) -> None:
    module: ModuleType = importlib.import_module(f"pegasus_green.{name}")
    classes = [
        value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    for verb in (verb for cls in classes if cls.__name__.endswith("Operations") for verb in vars(cls).values()):
        if inspect.isfunction(verb) and not verb.__name__.startswith("_"):
            text = inspect.getdoc(verb) or ""
            missing = [part for part in ("Args:", "Raises:", "Retries:", "Greenlets:", "Example:") if part not in text]
            assert not missing, f"{verb.__qualname__} lacks {missing}"


def _classes() -> list[type]:
    public = [getattr(pegasus_green, name) for name in pegasus_green.__all__]
    return [Onebox, *(value for value in public if inspect.isclass(value) and not issubclass(value, Exception))]


def _methods(cls: type) -> dict[str, Any]:
    """Return the public methods and properties of the package by name, including inherited ones.

    Those that Onebox inherits from outside ``control`` are what its servers call, not what a test says to it.
    """
    found: dict[str, Any] = {}
    owners = [base for base in cls.__mro__ if base.__module__.startswith("pegasus_green")]
    if cls is Onebox:
        owners = [base for base in owners if base.__module__ in HANDLE]
    for owner in owners:
        for name, method in vars(owner).items():
            if isinstance(method, (classmethod, staticmethod)):
                method = method.__func__
            if not name.startswith("_") and (inspect.isfunction(method) or isinstance(method, property)):
                found.setdefault(name, method)
    return found


@pytest.mark.parametrize("cls", _classes(), ids=lambda cls: cls.__name__)
def test_every_public_method_has_an_example_that_is_run(cls: type) -> None:
    for name, method in _methods(cls).items():
        verb = f"{cls.__name__}.{name}"
        if verb not in WITHOUT:
            assert "Example:" in (inspect.getdoc(method) or ""), f"{verb} shows no example"
            home = getattr(method, "fget", method).__module__.removeprefix("pegasus_green.")
            assert home in MODULES, f"the example of {verb} is not run"


def test_methods_listed_without_an_example_exist_and_have_none() -> None:
    methods = {f"{cls.__name__}.{name}": method for cls in _classes() for name, method in _methods(cls).items()}
    for verb in WITHOUT:
        assert "Example:" not in (inspect.getdoc(methods[verb]) or ""), f"{verb} has one now"
