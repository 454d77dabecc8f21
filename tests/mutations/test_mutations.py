"""The list of mutations fits the source and the tests as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.mutations.mutation import Mutation
from tests.mutations.rules import MUTATIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package."""
    root = tmp_path_factory.mktemp("mutants")
    shutil.copytree(ROOT / "pegasus_green", root / "pegasus_green", ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_is_up_to_date(copy: Path, mutation: Mutation) -> None:
    """Find its text, still be Python with it, and name tests that exist."""
    path = copy / "pegasus_green" / mutation.path
    before = mutation.apply(copy)
    try:
        compile(path.read_text(), str(path), "exec")
        assert path.read_text() != before
    finally:
        path.write_text(before)
    files = [argument.split("::")[0] for argument in mutation.tests if argument.startswith("tests/")]
    assert files
    assert all((ROOT / name).is_file() for name in files), files


def test_every_section_has_mutations_and_every_mutation_a_name_of_its_own() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
    assert {name.split("-")[0] for name in names} == {str(section) for section in range(1, 14)}
    assert all(mutation.rule and mutation.tests for mutation in MUTATIONS)
