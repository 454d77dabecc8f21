"""Test that every Any in the signatures of public names has a reason in this file."""

from __future__ import annotations

import inspect
from pathlib import Path

from pegasus_green.onebox.wire.faults import Fault, FaultOptions
from tests.types import check, surface

TABLE = "any table will do, and Table is invariant in its values"
FACTS = "a dict of plain values, which tests index"
REASONS = {
    **{
        f"{name}.__init__(table)": TABLE
        for name in ("Counter", "Frontier", "Leader", "Lock", "RateLimiter", "SeenSet", "Semaphore")
    },
    "Client.stats -> return": "exporters index it by variables, which a TypedDict refuses; see observability.md",
    "FactMethods.stats -> return": FACTS,
    "FailureMethods.list_faults -> return": FACTS,
    "Fault.describe -> return": FACTS,
    "JsonCodec.decode -> return": "JSON has values of any type, and users index them",
    "NotAnInteger.result": "an exception class cannot be generic in the table's values",
    "OneboxProcess.call -> return": "the result of any method, by its name",
    "OneboxProcess.call(args)": "the arguments of any method, by its name",
    "OneboxProcess.call(kwargs)": "the arguments of any method, by its name",
    "PegasusError.results": "an exception class cannot be generic; the entries are values and errors",
    "SecuredOnebox.__init__(options)": "the arguments of Onebox, of many types",
    "TableMethods.partitions -> return": FACTS,
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


def test_the_counter_reads_the_public_packages_inside(tmp_path: Path) -> None:
    for name in ("", "recipes", "onebox", "other"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").write_text("from .one import make\n")
        (tmp_path / name / "one.py").write_text(f"def make({name or 'a'}: Any) -> int: ...\n")
    assert surface.count(tmp_path) == {"make(a)": 1, "make(recipes)": 1, "make(onebox)": 1}


def test_checkers_know_every_option_of_a_fault() -> None:
    known = inspect.signature(Fault).parameters.values()
    assert list(FaultOptions.__annotations__) == [one.name for one in known if one.kind is one.KEYWORD_ONLY]


def test_every_block_of_the_pages_is_checked(tmp_path: Path) -> None:
    origin = check.gather(tmp_path / "all")
    for page in check.PAGES:
        if check.blocks(page):
            assert any(place == page or place.startswith(f"{page}, ") for place in origin.values())
    assert len(list(check.PROGRAMS.glob("*.py"))) == sum(name.startswith("programs/") for name in origin)
