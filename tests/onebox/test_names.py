"""Test that the public names of the onebox are loaded on first use, so that the pytest plugin imports only itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pegasus_green import onebox


def loaded_by(code: str) -> set[str]:
    """Return the modules that a fresh process has after running the code."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_the_plugin_loads_only_itself() -> None:
    # Every pytest run of its environment loads the plugin, and a conftest may patch before gevent is loaded.
    modules = loaded_by("import pegasus_green.onebox.pytest_plugin")
    assert {name for name in modules if name.startswith("pegasus_green")} == {
        "pegasus_green", "pegasus_green._version", "pegasus_green.onebox", "pegasus_green.onebox.pytest_plugin",
        "pegasus_green.transport", "pegasus_green.transport.fork",  # the at-fork hook, which every import registers
    }  # fmt: skip
    assert not modules & {"gevent", "greenlet", "sortedcontainers", "crcmod"}


def test_a_pytest_run_does_not_load_gevent(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import sys\n\n\ndef test_it():\n    assert 'gevent' not in sys.modules\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_the_object_of_that_name() -> None:
    for name in onebox.__all__:
        value = getattr(onebox, name)
        assert value.__name__ == name
        assert value.__module__ == f"pegasus_green.onebox.{onebox._HOMES[name]}"
        assert vars(onebox)[name] is value, "an ordinary attribute from then on"
    assert set(onebox.__all__) <= set(dir(onebox))
    assert onebox.__all__ == sorted(onebox.__all__)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(onebox.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == onebox._HOMES
    assert set(onebox._HOMES) == set(onebox.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Onebax'"):
        onebox.Onebax  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        exec("from pegasus_green.onebox import Onebax")
