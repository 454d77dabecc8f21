"""Test the facts on the pages: defaults, codes, names, links."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import pegasus_green
from pegasus_green import ClientOptions, HedgePolicy, RetryPolicy, ScanOptions, error_types, errors

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted(DOCS.rglob("*.md"))]


GUARANTEES = (DOCS / "guarantees.md").read_text().split("\n## No guarantees with the event loop libuv\n")[0]
# The number of a guarantee, and the text below its heading.
PROMISES = re.split(r"\n## (\d+)\. [^\n]+\n", GUARANTEES)[1:]


def _section(page: str, title: str) -> str:
    return (DOCS / page).read_text().split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("options", [ClientOptions, RetryPolicy, HedgePolicy])
def test_the_table_of_defaults_is_correct(options: type[Any]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", _section("options.md", options.__name__), flags=re.MULTILINE)
    wanted = [
        (field.name, "RetryPolicy()" if field.default == RetryPolicy() else repr(field.default))
        for field in dataclasses.fields(options)
    ]
    assert rows == wanted


def test_defaults_of_the_documented_options_are_correct() -> None:
    text = _section("options.md", "The API of the official client")
    for name in vars(ScanOptions()):
        assert f"`{name}`" in text
    assert f"`timeout_millis` | {ScanOptions().timeout_millis}," in text
    assert f"`batch_size` | {ScanOptions().batch_size}," in text


def test_every_error_has_its_row() -> None:
    text = (DOCS / "errors.md").read_text()
    bases = {"PegasusError", "TransportError", "TableError"}
    kinds = {n for n, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.PegasusError)}
    assert [name for name in sorted(kinds - bases) if f"`{name}`" not in text] == []


def test_every_code_of_an_error_class_has_its_row() -> None:
    text = _section("errors.md", "Codes of the API of the official client")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PegasusError)]
    # The page says which others return the number of their code.
    codes = {kind.code for kind in kinds if kind.code and not issubclass(kind, (errors.MetaError, errors.TableError))}
    assert [code for code in sorted(codes) if f"| {code} (" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_error_codes_have_their_numbers(page: Path) -> None:
    for name, number in re.findall(r"(ERR_[A-Z_]+) \((\d+)\)", page.read_text()):
        assert error_types[name].value == int(number), name
    for name in re.findall(r"\bERR_[A-Z_0-9]*[A-Z]\b", page.read_text()):
        assert name in error_types.__members__ or name == "ERR_X", name


def test_numbers_on_the_porting_page_are_correct() -> None:
    numbers = re.compile(r"^\| (ERR_\w+) \| (\d+) \| (\d+) \|", re.MULTILINE)
    rows = numbers.findall((DOCS / "porting.md").read_text())
    assert numbers.findall((DOCS / "zh" / "porting.md").read_text()) == rows
    assert len(rows) == 4
    assert all(error_types[name].value == int(number) for name, number, _ in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_existing_targets(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imports_on_the_page_are_public(page: Path) -> None:
    for line in re.findall(r"^\s*(?:`)?from pegasus_green import ([\w, ]+)", page.read_text(), flags=re.MULTILINE):
        for name in line.split(","):
            assert name.strip() in pegasus_green.__all__, name


def test_the_index_has_every_page() -> None:
    text = (DOCS / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in text] == []


def test_the_chinese_index_has_every_chinese_page() -> None:
    text = (DOCS / "zh" / "README.md").read_text()
    pages = [page.name for page in (DOCS / "zh").glob("*.md") if page.name != "README.md"]
    assert [name for name in pages if f"({name})" not in text] == []


def test_chinese_pages_and_their_originals_link_to_each_other() -> None:
    for page in (DOCS / "zh").glob("*.md"):
        original = DOCS / page.name
        if original.exists():
            assert f"[中文](zh/{page.name})" in original.read_text(), page.name
            assert f"(../{page.name})" in page.read_text(), page.name
    assert "(README.zh-CN.md)" in (ROOT / "README.md").read_text()
    assert "(README.md)" in (ROOT / "README.zh-CN.md").read_text()


def test_guarantees_are_numbered_and_state_their_limits() -> None:
    assert [int(number) for number in PROMISES[::2]] == list(range(1, 17))
    for text in PROMISES[1::2]:
        parts = [text.find(f"\n**{part}.**") for part in ("What holds", "Limits", "Tests")]
        assert -1 < parts[0] < parts[1] < parts[2], text


@pytest.mark.parametrize(("number", "text"), list(zip(PROMISES[::2], PROMISES[1::2])), ids=PROMISES[::2])
def test_every_guarantee_names_existing_tests(number: str, text: str) -> None:
    named = re.findall(r"^- `(tests/[^`]+)`$", text, flags=re.MULTILINE)
    assert len(named) == len(re.findall(r"^- ", text, flags=re.MULTILINE)) > 0, f"promise {number} names no test"
    for name in named:
        path, _, function = name.partition("::")
        assert re.fullmatch(r"test_\w+", function), name
        assert f"\ndef {function}(" in (ROOT / path).read_text(), name


@pytest.mark.parametrize(
    ("number", "figures"),
    [
        (1, ["10^5 calls", "10^6"]),
        (5, ["one dead meta server of three", "one connect timeout"]),
        (6, ["within 1 s", "90 %", "1.2 x"]),
        (7, ["20 ms"]),
        (8, ["repeats no call of the parent"]),
        (13, ["30 s"]),
    ],
)
def test_guarantees_state_their_figures(number: int, figures: list[str]) -> None:
    text = " ".join(PROMISES[2 * number - 1].split())
    assert [figure for figure in figures if figure not in text] == []
