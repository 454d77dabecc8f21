"""Test that public names are loaded on first use and that importing the package costs little."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import pegasus_green


def loaded_by(code: str) -> set[str]:
    """Return the modules that a fresh process has after running the code."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_few_modules() -> None:
    # Importing does not load gevent, so it stays cheap when the package grows.
    modules = loaded_by("import pegasus_green")
    ours = {name.removeprefix("pegasus_green").lstrip(".") for name in modules if name.startswith("pegasus_green")}
    assert ours == {"", "_version", "transport", "transport.fork"}  # the last registers the at-fork hook
    assert not modules & {"gevent", "greenlet", "crcmod", "thrift", "json", "dataclasses", "struct"}


def test_a_name_loads_what_it_needs_and_no_more() -> None:
    modules = loaded_by("from pegasus_green import Pegasus, Client, ScanOptions, error_types")
    assert {"pegasus_green.pegasus", "pegasus_green.client", "gevent"} <= modules
    for heavy in ("thrift", "sortedcontainers", "zstandard", "pegasus_green.onebox", "pegasus_green.admin"):
        assert heavy not in modules
    assert "gevent" not in loaded_by("from pegasus_green import errors, PegasusError, ClientOptions, RetryPolicy")


def test_every_public_name_is_the_object_of_that_name() -> None:
    for name in pegasus_green.__all__:
        value = getattr(pegasus_green, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__name__ == name
        assert vars(pegasus_green)[name] is value, "an ordinary attribute from then on"
    assert set(pegasus_green.__all__) <= set(dir(pegasus_green))


def test_every_error_is_public() -> None:
    for name, kind in vars(pegasus_green.errors).items():
        if isinstance(kind, type) and issubclass(kind, pegasus_green.PegasusError):
            assert name in pegasus_green.__all__


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(pegasus_green.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {}
    for node in blocks[0].body:
        assert isinstance(node, ast.ImportFrom)
        seen.update({alias.name: node.module for alias in node.names})
    submodules = {name for name, module in seen.items() if module is None}
    assert submodules == set(pegasus_green._SUBMODULES)
    assert {name: module for name, module in seen.items() if module} == pegasus_green._HOMES
    assert {*seen, "__version__"} == set(pegasus_green.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pegasos'"):
        pegasus_green.Pegasos  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        exec("from pegasus_green import Pegasos")


@pytest.mark.parametrize("make", ["Pegasus", "Client"])
def test_clients_refuse_pickling(make: str) -> None:
    client = getattr(pegasus_green, make)(["127.0.0.1:34601"])
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(client)


def test_reprs_show_state_and_addresses() -> None:
    assert repr(pegasus_green.Pegasus(["127.0.0.1:34601"], "temp")) == "<Pegasus 'temp' not initialized>"
    assert repr(pegasus_green.MultiGetOptions()).startswith(
        "MultiGetOptions(start_inclusive=True, stop_inclusive=False"
    )
    assert "batch_size=1000" in repr(pegasus_green.ScanOptions())
    assert "closed" not in repr(pegasus_green.PegasusScanner(None))
