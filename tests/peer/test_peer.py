"""Test that another client works with the embedded cluster."""

import pytest

from tests.peer import run


@pytest.mark.peer
@pytest.mark.slow
def test_pypegasus3_works_with_the_onebox() -> None:
    python = run.VENV / "bin" / "python"
    if not (run.VENV / ".ready").exists():
        pytest.skip("no .venv-peer here: `make test-peer` makes it")
    assert run.check(str(python)) == 0
