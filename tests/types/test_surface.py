"""Test that every Any in the signatures of public names has a reason in this file."""

from __future__ import annotations

from pathlib import Path

from tests.types import check, surface

REASONS = {
    "Client.stats -> return": "exporters index it by variables, which a TypedDict refuses; see observability.md",
    "JsonCodec.decode -> return": "JSON has values of any type, and users index them",
    "NotAnInteger.result": "an exception class cannot be generic in the table's values",
    "PegasusError.results": "an exception class cannot be generic; the entries are values and errors",
}


def test_every_any_of_the_public_signatures_has_a_reason() -> None:
    assert surface.count() == dict.fromkeys(REASONS, 1)


def test_the_counter_finds_every_any(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("from .one import Two, make\n")
    (tmp_path / "base.py").write_text("class Base:\n    def inherited(self, a: list[Any]) -> dict[Any, Any]: ...\n")
    (tmp_path / "one.py").write_text(
        "from .base import Base\n"
        "def make(*args: Any, **options: int) -> Any: ...\n"
        "class Two(Base):\n"
        "    value: Any = None\n"
        "    def _private(self, a: Any) -> Any: ...\n"
        "    @overload\n    def verb(self, a: int) -> int: ...\n"
        "    @overload\n    def verb(self, a: Any) -> int: ...\n"
        "    def verb(self, a: Any) -> Any: ...\n"
    )
    assert surface.count(tmp_path) == {
        "make(args)": 1,
        "make -> return": 1,
        "Two.value": 1,
        "Two.verb(a)": 1,
        "Base.inherited(a)": 1,
        "Base.inherited -> return": 2,
    }


def test_every_block_of_the_pages_is_checked(tmp_path: Path) -> None:
    origin = check.gather(tmp_path / "all")
    for page in check.PAGES:
        if check.blocks(page):
            assert any(place == page or place.startswith(f"{page}, ") for place in origin.values())
    assert len(list(check.PROGRAMS.glob("*.py"))) == sum(name.startswith("programs/") for name in origin)
