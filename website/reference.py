"""The API reference: a page of Markdown for each group of public names, from signatures and docstrings.

It is made from the sources, not from the imported objects, so that it shows every overload as a type checker sees it.
"""

from __future__ import annotations

import collections.abc
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import griffe

import pegasus_green
from website.signatures import of_class, of_twin, signatures, target, type_of

ROOT = Path(__file__).resolve().parents[1]


class Page(NamedTuple):
    """One page of the reference. An entry that is a module stands for its public classes and functions."""

    title: str
    about: str
    names: tuple[str, ...]


class Scope(NamedTuple):
    """What the names in a docstring refer to: the members of a class, and the arguments of a function."""

    owner: str
    arguments: frozenset[str]


# The order of the verbs of Table: the modules that define them.
_VERBS = ("base", "single", "multi", "ranges", "scans", "atomic", "many", "batch", "streams", "verbs", "client")
# Users do not call the constructors of these classes.
MADE_BY_METHODS = {
    *("Table", "Handle", "Scanner", "HashMapping", "Admin", "PegasusScanner", "Console", "Fault", "Mutex"),
}
# The parts of an onebox call each other's methods. Users call only these of them.
_PARTS = ("pegasus_green.onebox.control.assembly", "pegasus_green.onebox.replication", "pegasus_green.onebox.runtime")
_CALLED_BY_USERS = {"meta_addresses", "replica_addresses", "wait"}
_CONTRIB = sorted(path.stem for path in (ROOT / "pegasus_green" / "contrib").glob("[a-z]*.py"))
PAGES: dict[str, Page] = {
    "client": Page(
        "Client",
        "Clients, and ways to get one.",
        ("Client", "connect", "open_table", "shared_client", "accelerated"),
    ),
    "table": Page("Table", "Every verb on the records of a table.", ("Table", "Handle", "CallInfo", "Mutations")),
    "results": Page(
        "Rows and results",
        "What verbs return.",
        ("Row", "RowWithTtl", "HashRow", "HashRowWithTtl", "MultiGetResult", "SortKeys", "CheckResult"),
    ),
    "scans": Page(
        "Scans, filters and checks",
        "Scanners, filters on keys, and conditions of atomic verbs.",
        ("Scanner", "Filter", "FilterType", "CheckType"),
    ),
    "mapping": Page("Mapping", "One hash key as a mutable mapping.", ("HashMapping",)),
    "codecs": Page("Codecs", "How values become bytes.", ("Codec", "Utf8Codec", "JsonCodec", "ZstdCodec")),
    "keys": Page(
        "Keys",
        "How hash key and sort key become one key and a partition: functions of `pegasus_green.keys`.",
        ("keys.encode_key", "keys.decode_key", "keys.partition_hash", "keys.next_key"),
    ),
    "options": Page(
        "Options",
        "The options of a client, and the objects that are values of options. `Authentication`, `Mechanism`,"
        " `Exchange` and `Identity` are in `pegasus_green.auth`; only a mechanism other than Kerberos needs them. The"
        " other names are in `pegasus_green`.",
        (
            *("ClientOptions", "RetryPolicy", "HedgePolicy", "Kerberos"),
            *("auth.Authentication", "auth.Mechanism", "auth.Exchange", "auth.Identity"),
        ),
    ),
    "listeners": Page("Listeners and logs", "Events of a client, and its log.", ("Listener", "configure_logging")),
    "errors": Page(
        "Errors",
        "Every error that a call can raise. All of them take the arguments of [`PegasusError`](#pegasuserror).",
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
    "recipes": Page(
        "Recipes",
        "Classes of `pegasus_green.recipes`: locks, elections, limits, counters, sets, and work that runs once."
        " The guide [Recipes](../recipes.md) compares them.",
        tuple(
            f"recipes.{name}"
            for name in (
                *("Lock", "Semaphore", "Leader", "RateLimiter", "Allowance", "Counter", "SeenSet", "Frontier", "Job"),
                *("Once", "Singleflight", "RecipeError", "LockError", "LockNotOwnedError", "AlreadyRunning"),
            )
        ),
    ),
    "contrib": Page(
        "Frameworks",
        "One module of `pegasus_green.contrib` for each framework. The pages about [frameworks](../frameworks/index.md)"
        " show how to set them up. Arguments without a description are those of the framework's interface.",
        tuple(f"contrib.{name}" for name in _CONTRIB),
    ),
    "pegasus": Page(
        "Documented API",
        "The API of the official Python client.",
        ("Pegasus", "PegasusScanner", "ScanOptions", "MultiGetOptions", "error_types", "filter_type"),
    ),
    "onebox": Page(
        "Onebox",
        "The embedded cluster: names of `pegasus_green.onebox`, and the fixtures of its pytest plugin."
        " The guide [Onebox](../onebox.md) shows how to use them.",
        tuple(
            f"onebox.{name}"
            for name in (
                *("Onebox", "OneboxProcess", "Settings", "Limits", "Fault", "SecuredOnebox", "OneboxAuth", "Kdc"),
                "pytest_plugin",
            )
        ),
    ),
    "console": Page(
        "Console",
        "The web pages of `pegasus_green.console`. The guide [Console](../console.md) shows them.",
        ("console.wsgi", "console.Console", "console.ConsoleServer"),
    ),
    "types": Page("Types in signatures", "Names of types that signatures use and that cannot be called.", ()),
}
_TYPES = {
    "Key": "A key or a value: `bytes`, `bytearray`, `memoryview`, or `str`, which is encoded as UTF-8.",
    "Metas": 'Meta servers: one comma-separated string, or an iterable of `"host:port"` and `(host, port)`.',
    "V": "The type of the values of a table: `bytes` without a codec, otherwise the type that the codec decodes to.",
    "D": "The type of the argument `default`.",
    "R": "The type of the result that a handle returns.",
    "_T": "The type that a function of the application returns.",
    "Records[V]": "Values by sort key: a mapping, or an iterable of `(sort key, value)`.",
    "Values": "Values by sort key in the documented API: a mapping of sort keys to values, each a `Key`.",
    "Unpack[OptionChanges]": "Options of [`ClientOptions`](options.md#clientoptions) as keyword arguments.",
    "Unpack[FaultOptions]": "Conditions and keywords of a fault, which `Onebox.fault` describes.",
    "Which": 'A server of an onebox: its index, or its address "host:port".',
    "Servers": 'Servers of a onebox: one as for `Which` or "meta:0", several, "meta", "replica", or `None` for all.',
    "RemoteFault": "The handle on a rule of a onebox in another process. It has the members of `Fault`.",
    "Decoder[V]": "An object with the method `decode` of a [`Codec`](codecs.md#codec).",
    "Ports": 'Ports of an onebox: a number, several numbers, or a range as text such as "34601-34603".',
}
# Special methods and the expressions that call them.
_EXPRESSIONS = {
    "__getitem__": "{0}[key]",
    "__setitem__": "{0}[key] = value",
    "__delitem__": "del {0}[key]",
    "__contains__": "key in {0}",
    "__iter__": "for item in {0}",
    "__next__": "next({0})",
    "__len__": "len({0})",
    "__bool__": "bool({0})",
    "__enter__": "with {0}",
    "__call__": "{0}(...)",
    "__or__": "{0} | other",
    "__ior__": "{0} |= other",
}
# Names of variables in these expressions, if the name of the class is a poor one.
_VARIABLES = {
    "CheckResult": "result",
    "HashMapping": "mapping",
    "OneboxProcess": "box",
    "Onebox": "box",
    "PegasusDict": "responses",
    "SecuredOnebox": "cluster",
    "SeenSet": "seen",
}
# Sections of prose. griffe would make an item of each line, and lose text before a colon.
_PROSE = re.compile(r"^(Returns|Retries|Greenlets):\s+(\S.*(?:\n {4}.*)*)", re.MULTILINE)
_SETTING = re.compile(r"^(\S.*?): (.*(?:\n +.*)*)", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
# Names with two capitals are no words of English.
_NAME = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b")
# Headings of entries, and the places of their members: the name in a docstring, and the target of a link.
_links: dict[str, str] = {}


def pages() -> Iterator[tuple[str, str]]:
    """Yield file name and Markdown of each page."""
    package = griffe.load("pegasus_green", search_paths=[ROOT], resolve_aliases=True)
    _links.clear()
    for name, page in PAGES.items():
        for entry in page.names:
            _link(name, target(package[entry]), entry)
    for name, page in PAGES.items():
        parts = [f"# {page.title}\n\n{page.about}\n"]
        if page.names and not any("." in entry for entry in page.names):
            parts.append(f"Import {'these names' if len(page.names) > 1 else 'this name'} from `pegasus_green`.\n")
        for entry in page.names:
            found = target(package[entry])
            if found.is_module:
                parts += _module(found, entry)
            else:
                parts += _entry(found, entry.rpartition(".")[2], 2)
        if name == "types":
            parts += [f"- `{each}`: {meaning}" for each, meaning in _TYPES.items()]
        yield name, "\n".join(parts) + "\n"


def _link(page: str, found: Any, entry: str) -> None:
    """Note where a public name and its members are described."""
    if found.is_module:
        return
    name = entry.rpartition(".")[2]
    for each in [name, *(f"{name}.{inner}" for inner, _ in (_members(found) if found.is_class else ()))]:
        # The anchors of MyST have no dots.
        _links[each] = f"{page}.md#{each.replace('.', '').lower()}"


def _module(module: Any, entry: str) -> Iterator[str]:
    """Yield the Markdown of the public classes and functions that a module defines."""
    yield f"## `pegasus_green.{entry}`\n"
    if module.docstring is not None:
        # These docstrings have tables and literal blocks of reStructuredText.
        yield f"````{{eval-rst}}\n{module.docstring.value}\n````\n"
    for name, member in module.members.items():
        if not name.startswith("_") and not member.is_alias and (member.is_class or member.is_function):
            yield from _entry(member, name, 3)


def _entry(found: Any, name: str, level: int, owner: str = "") -> Iterator[str]:
    """Yield the Markdown of a class or function and of its members."""
    found = target(found)
    label = f"{owner}.{name}" if owner else name
    yield f"{'#' * level} `{label}`\n"
    signature = "\n\n".join(_signatures(found, name))
    if signature:
        yield f"```python\n{signature}\n```\n"
    if found.is_class:
        yield from _bases(found)
    yield from _docstring(found, owner, name)
    if found.is_class:
        yield from _constants(found)
        yield from _facts_of_error(found)
        yield from _expressions(found, name)
        for inner, member in _members(found):
            yield from _entry(member, inner, level + 1, name)


def _signatures(found: Any, name: str) -> Iterator[str]:
    if found.is_class:
        is_error = name in PAGES["errors"].names or found.path.startswith("pegasus_green.recipes.errors")
        shown = name == "PegasusError" or not is_error
        if shown and name not in MADE_BY_METHODS and not _is_enumeration(found):
            yield from of_class(found, name)
    elif found.is_function:
        if "fixture" not in " ".join(str(each.value) for each in found.decorators):
            yield from signatures(found, name)
    elif _is_twin(name):
        yield of_twin(target(found.parent[name.removesuffix("_async")]), name)
    elif type_of(found):
        yield f"{name}: {type_of(found)}"


def _bases(cls: Any) -> Iterator[str]:
    """Yield the public base classes, and the methods that a base of the standard library adds."""
    shown = []
    for base in cls.bases:
        text, path = str(base), getattr(base, "canonical_path", "")
        private = path.startswith("pegasus_green.") and text not in _links
        if not private and not text.startswith(("Generic", "Protocol", "namedtuple", "NamedTuple", "TypedDict")):
            shown.append(text)
    if shown:
        yield f"Base class{'es' if len(shown) > 1 else ''}: {', '.join(_linked(base) for base in shown)}\n"
    for base in shown:
        plain = base.partition("[")[0]
        abstract = getattr(collections.abc, plain, None)
        if abstract is not None:
            own = {inner for inner, _ in _members(cls)}
            added = [f"`{each}`" for each in dir(abstract) if not each.startswith("_") and each not in own]
            yield f"Methods that `{plain}` adds: {', '.join(added)}\n" if added else ""


def _linked(name: str) -> str:
    return f"[`{name}`]({_links[name]})" if name in _links else f"`{name}`"


def _is_enumeration(cls: Any) -> bool:
    return any(str(base).endswith("Enum") for base in cls.bases)


def _constants(cls: Any) -> Iterator[str]:
    """Yield the members of an enumeration with their values."""
    if _is_enumeration(cls):
        yield "**Members:**\n"
        for name, member in cls.members.items():
            if member.is_attribute and member.value is not None and not name.startswith("_"):
                yield f"- `{name}`: {member.value}"
        yield ""


def _facts_of_error(cls: Any) -> Iterator[str]:
    """Yield the code and the hint of an error class."""
    if cls.path.startswith("pegasus_green.errors."):
        for name, title in {"code": "Default code", "hint": "Hint"}.items():
            member = cls.members.get(name)
            text = "" if member is None else str(member.value).strip("\"'")
            if text:
                yield f"**{title}:** {f'`{text}`' if name == 'code' else text}\n"


def _expressions(cls: Any, name: str) -> Iterator[str]:
    """Yield the expressions that the special methods of a class allow."""
    lines = []
    scope = Scope(name, frozenset())
    members: dict[str, Any] = {}
    for owner in [*reversed(cls.mro()), cls]:
        if owner.path.startswith("pegasus_green"):
            members.update(owner.members)
    for method, expression in _EXPRESSIONS.items():
        member = members.get(method)
        if member is None or member.docstring is None:
            continue
        if method == "__iter__" and "__next__" in members:
            continue
        if method == "__next__":
            expression = "next({0})`, `for item in {0}"
        text = _text(_first(member.docstring), scope)
        if method == "__enter__" and members["__exit__"].docstring is not None:
            text += f" At the end of the block: {_text(_first(members['__exit__'].docstring), scope)}"
        lines.append(f"- `{expression.format(_VARIABLES.get(name, name.lower()))}`: {text}")
    if lines:
        yield "**Expressions:**\n"
        yield from lines
        yield ""


def _first(docstring: Any) -> str:
    """Return the first paragraph of a docstring."""
    return " ".join(str(docstring.value).partition("\n\n")[0].split())


def _members(cls: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class: its own first; those of Table by kind."""
    seen = set()
    owners = [cls, *cls.mro()]
    if cls.name == "Table":
        owners.sort(key=lambda owner: _VERBS.index(owner.path.split(".")[-2]))
    for owner in owners:
        if owner is not cls and owner.name in _links:
            # The entry of this base class shows them.
            continue
        for name, member in owner.members.items():
            if member.is_alias:
                continue
            public = not name.startswith("_") and owner.path.startswith("pegasus_green")
            if owner.path.startswith(_PARTS) and name not in _CALLED_BY_USERS and cls.name == "Onebox":
                continue
            if not public or name in seen or not (member.is_function or "property" in member.labels or _is_twin(name)):
                continue
            seen.add(name)
            yield name, member


def _is_twin(name: str) -> bool:
    return name.endswith("_async")


def _docstring(found: Any, owner: str, name: str) -> Iterator[str]:
    docstring = found.docstring
    if docstring is None:
        if not _is_twin(name):
            return
        # These docstrings exist only at run time.
        docstring = griffe.Docstring(inspect.cleandoc(getattr(pegasus_green.Table, name).__doc__ or ""))
    scope = Scope(
        owner or name, frozenset(each.name for each in found.parameters) if found.is_function else frozenset()
    )
    value = _PROSE.sub(lambda each: f"\n**{each[1]}:** {' '.join(each[2].split())}\n", docstring.value)
    sections = _parsed(value, docstring)
    prose = next((index for index, each in enumerate(sections) if each.kind.value != "text"), len(sections))
    for section in [*sections[:prose], *_arguments_of_init(found), *sections[prose:]]:
        kind, content = section.kind.value, section.value
        if kind == "text":
            yield f"{_text(content, scope)}\n"
        elif kind == "admonition" and content.annotation == "example":
            code = textwrap.dedent(content.description).replace("  # doctest: +SKIP", "")
            yield f"```pycon\n{code}\n```\n"
        elif kind == "admonition" and content.annotation == "settings":
            yield "**Settings:**\n"
            for setting, text in _SETTING.findall(textwrap.dedent(content.description)):
                yield f"- `{setting}`: {_text(' '.join(text.split()), scope)}"
            yield ""
        elif kind == "admonition":
            yield f"**{section.title or content.annotation.title()}:** {_text(content.description, scope)}\n"
        elif kind == "examples":
            code = "\n".join(text for _, text in content)
            yield f"```pycon\n{code}\n```\n"
        elif kind in ("parameters", "attributes", "raises"):
            title = {"parameters": "Arguments"}.get(kind, kind.title())
            yield f"**{title}:**\n"
            for item in content:
                yield _item(kind, item, found, scope)
            yield ""


def _parsed(value: str, docstring: Any) -> list[Any]:
    parent = docstring.parent
    return griffe.Docstring(value, parent=parent).parse("google", warn_unknown_params=False, warnings=False)


def _arguments_of_init(found: Any) -> Iterator[Any]:
    """Yield the section about arguments from the docstring of a constructor."""
    initial = found.members.get("__init__") if found.is_class and found.name not in MADE_BY_METHODS else None
    if initial is not None and initial.docstring is not None:
        for section in _parsed(initial.docstring.value, initial.docstring):
            if section.kind.value == "parameters":
                yield section


def _item(kind: str, item: Any, found: Any, scope: Scope) -> str:
    """Return the line of one argument, attribute or error."""
    text = _text(item.description, scope).replace("\n", " ")
    if kind == "raises":
        names = ", ".join(_linked(each.strip()) for each in str(item.annotation).strip("()").split(","))
        return f"- {names}: {text}"
    label = f"`{item.name}`"
    if kind == "attributes" and found.is_class:
        declared = found.all_members.get(item.name)
        shown = "" if declared is None else type_of(target(declared))
        # The signature of a data class has the types of its attributes.
        if shown and "dataclass" not in found.labels:
            label += f" (`{shown}`)"
    return f"- {label}: {text}"


def _text(value: str, scope: Scope) -> str:
    """Return prose of a docstring as Markdown, with links to the public names and pages that it mentions.

    Args:
        value: The prose. Double backquotes enclose code, as in reStructuredText.
        scope: What the names in the prose refer to.
    """
    lines = []
    for line in textwrap.dedent(value).replace("::\n", ":\n").replace("``", "`").strip().split("\n"):
        if line.startswith("    "):
            lines.append(line)
            continue
        # Code stays as it is; elsewhere "<" would begin an HTML element.
        pieces = _CODE.split(line)
        pieces[::2] = [
            _NAME.sub(lambda each: _named(each[0], scope), each.replace("<", "&lt;")) for each in pieces[::2]
        ]
        pieces[1::2] = [_code(each, scope) for each in pieces[1::2]]
        lines.append("".join(pieces))
    return "\n".join(lines)


def _named(name: str, scope: Scope) -> str:
    """Return a name of prose: a link if it is a class of the reference."""
    return f"[{name}]({_links[name]})" if name in _links and name != scope.owner else name


def _code(text: str, scope: Scope) -> str:
    """Return code as Markdown: a link if it names a page or a public name outside of ``scope``."""
    page = re.fullmatch(r"docs/([\w/-]+)\.md", text)
    if page is not None:
        title = (ROOT / text).read_text().partition("\n")[0].removeprefix("# ")
        return f"[{title}](../{page[1]}.md)"
    module = text.removeprefix("pegasus_green.")
    if module != text and module in pegasus_green._SUBMODULES:
        return f"[`{text}`]({module}.md)"
    called = text.partition("(")[0].replace("pegasus_green.", "")
    called = re.sub(r"^(table|client|box|admin)\.", lambda each: f"{each[1].title()}.", called)
    if text == "ttl":
        # It is a field of rows and an argument, too.
        return "`ttl`"
    candidates = [f"{scope.owner}.{called}", called]
    if "_" in called or called in ("incr", "truncate"):
        # Other names of verbs are also names of arguments and of methods of other classes.
        candidates.append(f"Table.{called}")
    for each in candidates:
        if each in _links and each != scope.owner and called not in scope.arguments:
            return f"[`{text}`]({_links[each]})"
    return f"`{text}`"
