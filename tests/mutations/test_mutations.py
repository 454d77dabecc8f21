"""Test that the list of mutations fits the present source and tests."""

from __future__ import annotations

import re
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
def test_a_mutation_applies_and_names_existing_tests(copy: Path, mutation: Mutation) -> None:
    """The replaced text occurs once, the result compiles, and the files and the words of -k occur in the tests."""
    path = copy / "pegasus_green" / mutation.path
    before = mutation.apply(copy)
    try:
        if not mutation.compiled:
            compile(path.read_text(), str(path), "exec")
        assert path.read_text() != before
    finally:
        path.write_text(before)
    files = [argument.split("::")[0] for argument in mutation.tests if argument.startswith("tests/")]
    assert files
    assert all((ROOT / name).is_file() for name in files), files
    if "-k" in mutation.tests:
        text = "".join((ROOT / name).read_text() for name in files)
        expression = mutation.tests[mutation.tests.index("-k") + 1]
        words = set(re.findall(r"\w+", expression)) - {"and", "or", "not"}
        assert not [word for word in words if word not in text], "no test has these words in its name"


def test_every_section_has_mutations_with_unique_names() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
    assert {name.split("-")[0] for name in names} == {str(section) for section in range(1, 15)}
    assert all(mutation.rule and mutation.tests for mutation in MUTATIONS)
