"""The API reference: a page of Markdown for each group of public names, from signatures and docstrings.

Read are the sources, not the objects: so every overload is shown as a type checker sees it.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import griffe

import pegasus_green

ROOT = Path(__file__).resolve().parents[1]


class Page(NamedTuple):
    """One page of the reference."""

    title: str
    about: str
    names: tuple[str, ...]


# Users do not call the constructors of these classes.
MADE_BY_METHODS = {"Table", "Handle", "Scanner", "HashMapping", "Admin", "PegasusScanner"}
PAGES: dict[str, Page] = {
    "client": Page("Client", "Clients, and ways to get one.", ("Client", "connect", "open_table", "shared_client")),
    "table": Page("Table", "Every verb on the records of a table.", ("Table", "Handle", "CallInfo", "Mutations")),
    "results": Page(
        "Rows and results",
        "What verbs return.",
        ("Row", "RowWithTtl", "HashRow", "HashRowWithTtl", "MultiGetResult", "SortKeys", "CheckResult"),
    ),
    "scans": Page(
        "Scans, filters and checks", "What selects records.", ("Scanner", "Filter", "FilterType", "CheckType")
    ),
    "mapping": Page("Mapping", "One hash key as a mutable mapping.", ("HashMapping",)),
    "codecs": Page("Codecs", "How values become bytes.", ("Codec", "Utf8Codec", "JsonCodec", "ZstdCodec")),
    "keys": Page(
        "Keys",
        "How hash key and sort key become one key and a partition: functions of `pegasus_green.keys`.",
        ("keys.encode_key", "keys.decode_key", "keys.partition_hash", "keys.next_key"),
    ),
    "options": Page(
        "Options", "Everything that can be chosen.", ("ClientOptions", "RetryPolicy", "HedgePolicy", "Kerberos")
    ),
    "listeners": Page("Listeners and logs", "What a client tells about itself.", ("Listener", "configure_logging")),
    "errors": Page(
        "Errors",
        "Every error that a call can raise.",
        (
            "PegasusError",
            *sorted(
                name
                for name in pegasus_green.__all__
                if name != "PegasusError"
                and inspect.isclass(getattr(pegasus_green, name))
                and issubclass(getattr(pegasus_green, name), pegasus_green.PegasusError)
            ),
        ),
    ),
    "admin": Page(
        "Administration",
        "Tables, partitions, nodes, environments and splits.",
        ("Admin", *(name for name, home in pegasus_green._HOMES.items() if home.startswith("admin."))),
    ),
    "pegasus": Page(
        "Documented API",
        "The API of the official Python client.",
        ("Pegasus", "PegasusScanner", "ScanOptions", "MultiGetOptions", "error_types", "filter_type"),
    ),
    "onebox": Page("Onebox", "The embedded cluster.", ("onebox.Onebox",)),
}


def _others() -> tuple[str, ...]:
    """Return the public names that are on no page yet."""
    shown = {name.partition(".")[0] for page in PAGES.values() for name in page.names}
    modules = {*pegasus_green._SUBMODULES, "__version__"}
    return tuple(name for name in pegasus_green.__all__ if name not in shown | modules)


PAGES["others"] = Page("Other names", "Public names that belong to none of the other pages.", _others())


# Sections of prose. griffe would make an item of each line, and lose text before a colon.
_PROSE = re.compile(r"^(Returns|Retries|Greenlets):\s+(\S.*(?:\n {4}.*)*)", re.MULTILINE)


def pages() -> Iterator[tuple[str, str]]:
    """Yield file name and Markdown of each page."""
    package = griffe.load("pegasus_green", search_paths=[ROOT], resolve_aliases=True)
    for name, page in PAGES.items():
        parts = [f"# {page.title}\n\n{page.about}\n"]
        for entry in page.names:
            parts += _entry(package[entry], entry.rpartition(".")[2], 2)
        yield name, "\n".join(parts)


def _entry(found: Any, name: str, level: int, owner: str = "") -> Iterator[str]:
    """Yield the Markdown of a class or function and of its members."""
    found = found.final_target if found.is_alias else found
    label = f"{owner}.{name}" if owner else name
    yield f"{'#' * level} `{label}`\n"
    signature = "" if found.is_attribute else "\n\n".join(_signatures(found, name))
    if signature:
        yield f"```python\n{signature}\n```\n"
    yield from _docstring(found.docstring, owner, name)
    if found.is_class:
        yield from _constants(found)
        for inner, member in _members(found):
            yield from _entry(member, inner, level + 1, name)


def _constants(cls: Any) -> Iterator[str]:
    """Yield the members of an enumeration with their values."""
    if any(str(base).endswith("Enum") for base in cls.bases):
        yield "**Members:**\n"
        for name, member in cls.members.items():
            if member.is_attribute and member.value is not None and not name.startswith("_"):
                yield f"- `{name}`: {member.value}"
        yield ""


def _members(cls: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class: the inherited ones first, as those of Table are its verbs."""
    seen = set()
    for owner in [*cls.mro(), cls]:
        for name, member in owner.members.items():
            member = member.final_target if member.is_alias else member
            public = not name.startswith("_") and owner.path.startswith("pegasus_green")
            if not public or name in seen or not (member.is_function or "property" in member.labels or _is_twin(name)):
                continue
            seen.add(name)
            yield name, member


def _is_twin(name: str) -> bool:
    return name.endswith("_async")


def _signatures(found: Any, name: str) -> Iterator[str]:
    """Yield the signature, or that of each overload."""
    if found.is_class:
        if name in MADE_BY_METHODS:
            return
        initial = found.all_members.get("__init__")
        if initial is None or not initial.path.startswith("pegasus_green"):
            return
        initial = initial.final_target if initial.is_alias else initial
        for each in initial.overloads or [initial]:
            yield _signature(name, each, returns=False)
        return
    overloads = getattr(found, "overloads", None)
    for each in overloads or [found]:
        if each.is_function:
            yield _signature(name, each, returns=True)
    if overloads and any("Unpack[" in str(parameter.annotation) for parameter in overloads[0].parameters):
        # The overloads have no names and defaults of these options; the implementation has.
        yield "# all options and their defaults\n" + _signature(name, found, returns=True)


def _signature(name: str, function: Any, *, returns: bool) -> str:
    parts, star = [], False
    for parameter in function.parameters:
        kind = str(parameter.kind.value)
        if parameter.name == "self" or parameter.name == "cls":
            continue
        if kind == "keyword-only" and not star:
            parts.append("*")
            star = True
        prefix = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        star = star or prefix == "*"
        text = prefix + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and not prefix:
            text += f" = {parameter.default}"
        parts.append(text)
    end = f" -> {function.returns}" if returns and function.returns is not None else ""
    line = f"{name}({', '.join(parts)}){end}"
    return line if len(line) <= 90 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n){end}"


def _docstring(docstring: Any, owner: str, name: str) -> Iterator[str]:
    if docstring is None:
        if not _is_twin(name):
            return
        # These docstrings exist only at run time.
        docstring = griffe.Docstring(inspect.cleandoc(getattr(pegasus_green.Table, name).__doc__ or ""))
    docstring = griffe.Docstring(_PROSE.sub(_paragraph, docstring.value), parent=docstring.parent)
    options = {"warn_unknown_params": False, "warnings": False}
    for section in docstring.parse("google", **options):
        kind, value = section.kind.value, section.value
        if kind == "text":
            yield f"{_text(value)}\n"
        elif kind == "admonition" and value.annotation == "example":
            yield f"```pycon\n{textwrap.dedent(value.description)}\n```\n"
        elif kind == "admonition":
            yield f"**{section.title or value.annotation.title()}:** {_text(value.description)}\n"
        elif kind == "examples":
            code = "\n".join(text for _, text in value)
            yield f"```pycon\n{code}\n```\n"
        elif kind in ("parameters", "attributes", "raises"):
            title = {"parameters": "Arguments"}.get(kind, kind.title())
            yield f"**{title}:**\n"
            for item in value:
                label = str(getattr(item, "name", "") or (item.annotation if kind == "raises" else "") or "")
                yield f"- {f'`{label}`: ' if label else ''}{_text(item.description)}"
            yield ""


def _paragraph(found: re.Match[str]) -> str:
    """Return a section of prose as a paragraph of its own."""
    return f"\n**{found[1]}:** {' '.join(found[2].split())}\n"


def _text(value: str) -> str:
    """Return prose of a docstring as Markdown: double backquotes become single ones."""
    return textwrap.dedent(value).replace("::\n", ":\n").replace("``", "`").replace("<", "&lt;").strip()
