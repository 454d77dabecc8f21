"""Test that modules import only the layers below them, as the tables in this file say."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pegasus_green"

# Each layer's modules (a package stands for all below it) and what it may import besides itself, by layer.
BASE, PROTOCOL, TRANSPORT, CLUSTER, CLIENT, RECIPES, CONTRIB, FACE, ONEBOX, TOP, ROOT = (
    "base", "protocol", "transport", "cluster", "client", "recipes", "contrib", "face", "onebox", "top", "root",
)  # fmt: skip
LAYERS: dict[str, tuple[str, ...]] = {
    BASE: ("auth", "errors", "model", "results", "keys", "options", "retry", "events", "log", "_version", "accelerate"),
    PROTOCOL: ("protocol",),
    TRANSPORT: ("transport",),
    CLUSTER: ("cluster",),
    CLIENT: (
        "client",
        "operations",
        "scanner",
        "bulk",
        "health",
        "hedging",
        "mapping",
        "admin",
        "codecs",
        "shared",
        "turns",
    ),
    RECIPES: ("recipes",),
    CONTRIB: ("contrib",),  # and no module of it imports another
    FACE: ("pegasus", "pegasus_types"),
    ONEBOX: ("onebox",),
    TOP: ("cli", "console", "__main__"),
    ROOT: ("",),  # pegasus_green/__init__.py: only gathers public names
}
ARROWS: dict[str, tuple[str, ...]] = {
    BASE: (),
    PROTOCOL: (BASE,),
    TRANSPORT: (PROTOCOL, BASE),
    CLUSTER: (TRANSPORT, PROTOCOL, BASE),
    CLIENT: (CLUSTER, TRANSPORT, PROTOCOL, BASE),
    RECIPES: (CLIENT, BASE),
    CONTRIB: (RECIPES, CLIENT, BASE),
    FACE: (CLIENT, CLUSTER, TRANSPORT, PROTOCOL, BASE),
    ONEBOX: (PROTOCOL,),  # and of the base only ONEBOX_BASE
    TOP: (FACE, RECIPES, CLIENT, CLUSTER, TRANSPORT, PROTOCOL, BASE, ONEBOX, ROOT),
    ROOT: (FACE, RECIPES, CLIENT, CLUSTER, TRANSPORT, PROTOCOL, BASE),
}
ONEBOX_BASE = ("auth", "errors", "keys", "model", "_version")

# The layers of the onebox, lowest first: a layer imports itself and the layers before it. FRONT is what users import.
FRONT = "front"
ROOMS = ("kdc", "engine", "runtime", "store", "wire", "replication", "servers", "control", FRONT)
# Modules that a layer of the onebox may not import, although the onebox may.
ROOM_FORBIDDEN: dict[str, tuple[str, ...]] = {
    "kdc": ("greenlet", "sortedcontainers"),
    "engine": ("gevent", "greenlet", "time", "datetime", "socket", "threading"),
    "runtime": ("socket", "sortedcontainers"),
    "store": ("time", "socket", "threading", "sortedcontainers"),
    "wire": ("time", "sortedcontainers"),
    "replication": ("gevent", "greenlet", "time", "socket", "sortedcontainers"),
    "servers": ("time", "sortedcontainers"),
    "control": ("time", "sortedcontainers"),
    FRONT: ("gevent", "greenlet", "time", "socket", "sortedcontainers"),
}

# Packages that a layer may import besides the standard library, and standard modules that it may not import.
PACKAGES: dict[str, tuple[str, ...]] = {
    BASE: ("crcmod", "gssapi"),
    PROTOCOL: ("thrift",),
    TRANSPORT: ("gevent", "greenlet"),
    CLUSTER: ("gevent", "greenlet"),
    CLIENT: ("gevent", "greenlet", "zstandard"),
    RECIPES: ("gevent",),
    CONTRIB: ("gevent",),  # and each module its framework: FRAMEWORKS
    FACE: ("gevent",),
    ONEBOX: ("gevent", "greenlet", "sortedcontainers", "pytest", "gssapi"),
    TOP: ("gevent", "pytest", "click", "rich", "prompt_toolkit", "tomli", "zstandard", "matplotlib"),
    ROOT: (),
}
# The framework that each module of contrib may import.
FRAMEWORKS: dict[str, tuple[str, ...]] = {
    "contrib": (),
    "contrib.cachelib": ("cachelib",),
    "contrib.celery": ("celery", "kombu"),
    "contrib.django": ("django", "asgiref"),
    "contrib.dogpile": ("dogpile",),
    "contrib.limits": ("limits",),
    "contrib.locust": ("locust",),
    "contrib.opentelemetry": ("opentelemetry",),
    "contrib.prometheus": ("prometheus_client",),
    "contrib.requests_cache": ("requests_cache", "requests"),
}
IO = ("socket", "select", "selectors", "ssl", "threading", "subprocess", "asyncio")
FORBIDDEN: dict[str, tuple[str, ...]] = {BASE: IO, PROTOCOL: (*IO, "time", "datetime", "logging")}


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    module: str
    line: int
    when: str  # "import": a cycle of these would break it; "call": inside a function; "typing": for type checkers


def _names() -> dict[str, Path]:
    """Map dotted names below the package ("" is the package itself) to their files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


NAMES = _names()


def _layer(name: str) -> str | None:
    if name == "onebox.pytest_plugin":
        return TOP  # its fixtures hand out both a onebox and a client
    top = name.split(".")[0]
    return next((layer for layer, modules in LAYERS.items() if top in modules), None)


def _statements(node: ast.AST, when: str = "import") -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, when
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _statements(child, "call")
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _statements(child, "typing")
        else:
            yield from _statements(child, when)


@cache
def imports(name: str) -> tuple[Import, ...]:
    """Return everything that a module imports: at import, inside functions, for type checkers."""
    path = NAMES[name]
    package = ["pegasus_green", *filter(None, name.split("."))]
    if path.name != "__init__.py":
        package.pop()
    found = []
    for node, when in _statements(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            # `from package import module` names a module where there is one of that name.
            targets = [f"{source}.{a.name}" if _below(f"{source}.{a.name}") in NAMES else source for a in node.names]
        found += [Import(target, node.lineno, when) for target in targets]
    return tuple(found)


def _below(module: str) -> str | None:
    """Return the name below the package, None for a module from elsewhere."""
    head, _, rest = module.partition(".")
    return rest if head == "pegasus_green" else None


def test_the_tables_name_the_same_layers() -> None:
    assert LAYERS.keys() == ARROWS.keys() == PACKAGES.keys()
    known = [module for modules in LAYERS.values() for module in modules]
    assert len(known) == len(set(known))


def test_every_module_has_a_layer() -> None:
    unknown = [name for name in NAMES if _layer(name) is None]
    assert not unknown, f"give these a row in LAYERS: {unknown}"


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name or "pegasus_green")
def test_a_module_imports_only_allowed_layers(name: str) -> None:
    layer = _layer(name)
    if layer is None:
        pytest.skip("has no layer yet: test_every_module_has_a_layer tells")
    wrong = []
    for found in imports(name):
        where = f"{NAMES[name].relative_to(PACKAGE.parent)}:{found.line} imports {found.module}"
        target = _below(found.module)
        if target is None:
            top = found.module.split(".")[0]
            known = top in sys.stdlib_module_names or top in (*PACKAGES[layer], *FRAMEWORKS.get(name, ()))
            if found.when != "typing" and (not known or top in FORBIDDEN.get(layer, ())):
                wrong.append(where)
        elif target.split(".")[0] in ONEBOX_BASE and layer == ONEBOX:
            continue
        elif _layer(target) not in (layer, *ARROWS[layer]):
            wrong.append(where)
    assert not wrong, f"not an arrow of layer {layer}:\n" + "\n".join(wrong)


def _room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else FRONT


@pytest.mark.parametrize("name", [name for name in NAMES if name.split(".")[0] == ONEBOX])
def test_rooms_of_the_onebox_import_only_rooms_below(name: str) -> None:
    room = _room(name)
    below = ROOMS[: ROOMS.index(room) + 1]
    wrong = []
    for found in imports(name):
        target = _below(found.module)
        if target is None:
            allowed = found.when == "typing" or found.module.split(".")[0] not in ROOM_FORBIDDEN[room]
        else:
            allowed = _layer(target) != ONEBOX or _room(target) in below
        if not allowed:
            wrong.append(f"{NAMES[name].relative_to(PACKAGE.parent)}:{found.line} imports {found.module}")
    assert not wrong, f"not for room {room}:\n" + "\n".join(wrong)


def test_every_module_of_the_onebox_has_a_room() -> None:
    at_the_front = [name for name in NAMES if name.split(".")[0] == ONEBOX and _room(name) == FRONT]
    assert sorted(at_the_front) == ["onebox", "onebox.pytest_plugin"]


def _circles(graph: dict[str, set[str]]) -> list[frozenset[str]]:
    """Return the strongly connected parts of a graph that have more than one node (Tarjan)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    trail: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        trail.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in trail:
                lowest[name] = min(lowest[name], order[target])
        if lowest[name] == order[name]:
            part = frozenset(trail[trail.index(name) :])
            del trail[trail.index(name) :]
            if len(part) > 1:
                found.append(part)

    for name in graph:
        if name not in order:
            visit(name)
    return found


def test_there_is_no_import_cycle() -> None:
    """Imports for type checkers and imports inside functions count, too."""
    graph = {name: {target for i in imports(name) if (target := _below(i.module)) in NAMES} - {name} for name in NAMES}
    circles = _circles(graph)
    assert not circles, f"these modules import each other in a circle: {[sorted(circle) for circle in circles]}"


def test_import_cycles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert _circles(graph) == [frozenset("bc")]


def test_no_module_of_contrib_imports_another() -> None:
    """A user of one framework does not need the others."""
    modules = [name for name in NAMES if name.startswith("contrib.")]
    assert not [name for name in modules if name not in FRAMEWORKS], "name its framework in FRAMEWORKS"
    for name in modules:
        targets = {_below(found.module) for found in imports(name)} - {None}
        assert not [target for target in targets if target and target.split(".")[0] == "contrib"], name
