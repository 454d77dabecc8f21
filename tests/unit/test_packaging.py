"""Test packaging: one list of dependencies, one version, a pure typed wheel that works in an empty environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pip
import pytest

import pegasus_green
from pegasus_green import _version

ROOT = Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns(
    ".git", ".venv*", ".lanes", "build", "dist", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis"
)


def requirements() -> list[str]:
    """Return the run-time dependencies as requirements.txt lists them."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def run(*command: str, cwd: Path, **env: str) -> str:
    """Run a command that must succeed and return its output."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_one_version() -> None:
    assert pegasus_green.__version__ == _version.__version__ == metadata.version("pegasus_green")
    assert re.fullmatch(r"\d+\.\d+\.\d+", pegasus_green.__version__)


def test_requirements_txt_is_the_only_list_of_dependencies() -> None:
    declared = metadata.requires("pegasus_green") or []
    assert sorted(r for r in declared if "extra ==" not in r) == sorted(requirements())
    names = {re.split(r"[^\w-]", r)[0] for r in requirements()}
    assert names == {"gevent", "greenlet", "thrift", "crcmod-plus", "sortedcontainers"}
    assert all(">=" in r for r in requirements()), "each with a floor, which `make lanes` runs"
    others = (ROOT / "pyproject.toml").read_text() + (ROOT / "setup.py").read_text()
    assert not [name for name in names if re.search(rf'"{name}\b[^"]*[<>=]', others)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel from a copy, because setuptools would include files of an earlier build."""
    place = tmp_path_factory.mktemp("build")
    tree = shutil.copytree(ROOT, place / "tree", ignore=IGNORED)
    build("wheel", tree, place, PEGASUS_GREEN_PURE="1")
    build("sdist", tree, place)
    return place


def build(what: str, tree: Path, place: Path, **env: str) -> None:
    """Call the hook of the build backend that pip would call, which is a second faster than pip."""
    shutil.rmtree(tree / "build", ignore_errors=True)
    run(sys.executable, "-c", f"import setuptools.build_meta as b; b.build_{what}({str(place)!r})", cwd=tree, **env)


def test_the_wheel_is_pure_and_typed(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"pegasus_green-{pegasus_green.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {str(p.relative_to(ROOT)) for p in (ROOT / "pegasus_green").rglob("*") if p.suffix == ".py"}
    assert own | {"pegasus_green/py.typed"} == {name for name in names if ".dist-info/" not in name}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_the_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "requirements.txt", "LICENSE", "CHANGELOG.md", "tests/conftest.py"} <= names
    assert str(Path(__file__).relative_to(ROOT)) in names


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_native_wheel_serves_every_python_from_3_10(built: Path, tmp_path: Path) -> None:
    build("wheel", built / "tree", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert "-cp310-abi3-linux" in wheel.name
    assert "pegasus_green/_core.abi3.so" in zipfile.ZipFile(wheel).namelist()


@pytest.mark.slow
def test_without_a_compiler_the_pure_code_is_installed(built: Path, tmp_path: Path) -> None:
    build("wheel", built / "tree", tmp_path, CC="/nonexistent/cc")
    (wheel,) = tmp_path.glob("*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_venv(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    # The pip of this environment installs: to make another pip, and to compile every module, takes most of the time.
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    python = str(tmp_path / "venv" / "bin" / "python")
    (tmp_path / "only-pip").mkdir()
    (tmp_path / "only-pip" / "pip").symlink_to(Path(pip.__file__).parent)
    command = (python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-compile", str(wheel))
    run(*command, cwd=tmp_path, PYTHONPATH=str(tmp_path / "only-pip"))
    program = "import pegasus_green as p; p.Client(['127.0.0.1:34601']); print(p.__version__, p.__file__)"
    version, path = run(python, "-c", program, cwd=tmp_path).split()
    assert version == pegasus_green.__version__
    assert path.startswith(str(tmp_path))
