"""Count Any in the signatures of the public names: ``python -m tests.types.surface [PACKAGE]``.

Read are the public names of pegasus_green, pegasus_green.recipes and pegasus_green.onebox: functions, and the public
methods and annotated attributes of classes with those that they inherit inside the package. Of a function with
overloads the overloads count, as checkers see only those.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pegasus_green"
# The packages whose __init__.py imports the public names, below the root.
FRONTS = ("", "recipes", "onebox")
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


class Package:
    """The modules of a package, parsed."""

    def __init__(self, root: Path) -> None:
        """Parse every module."""
        self.root = root
        self.modules = {path: ast.parse(path.read_text()) for path in root.rglob("*.py")}

    def public(self) -> Iterator[tuple[str, ast.AST, Path]]:
        """Yield the public names with their definitions."""
        fronts = [self.root / name / "__init__.py" for name in FRONTS]
        for front in (front for front in fronts if front in self.modules):
            for node in ast.walk(self.modules[front]):
                if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                    for alias in node.names:
                        found = self.find(front, alias.name)
                        if found is not None and not alias.name.startswith("_"):
                            yield (alias.name, *found)

    def find(self, path: Path, name: str) -> tuple[ast.AST, Path] | None:
        """Return the definition that a name has in a module, its own or an imported one."""
        for node in _statements(self.modules[path]):
            if isinstance(node, (ast.ClassDef, *Function)) and node.name == name:
                return node, path
            if isinstance(node, ast.ImportFrom) and node.level and any(a.name == name for a in node.names):
                base = path.parent
                for _ in range(node.level - 1):
                    base = base.parent
                target = base.joinpath(*(node.module or "").split("."))
                source = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
                return self.find(source, name) if source in self.modules else None
        return None

    def members(self, node: ast.ClassDef, path: Path) -> Iterator[tuple[str, ast.AST]]:
        """Yield the public members of a class and of its bases inside the package, with the class that has each."""
        seen: set[str] = set()
        todo = [(node, path)]
        while todo:
            cls, home = todo.pop(0)
            own = set()
            for member in cls.body:
                name = _name(member)
                if name is not None and name not in seen and (not name.startswith("_") or name in SPECIAL):
                    own.add(name)
                    yield cls.name, member
            seen |= own
            for base in cls.bases:
                inner = base.value if isinstance(base, ast.Subscript) else base
                found = self.find(home, inner.id) if isinstance(inner, ast.Name) else None
                if found is not None and isinstance(found[0], ast.ClassDef):
                    todo.append((found[0], found[1]))


# Methods that users call by an operator.
SPECIAL = {"__init__", "__getitem__", "__setitem__", "__iter__", "__next__", "__enter__", "__call__"}


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    for node in tree.body:
        yield node
        if isinstance(node, ast.If):
            yield from node.body


def _name(member: ast.AST) -> str | None:
    if isinstance(member, Function):
        return member.name
    if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
        return member.target.id
    return None


def _is_overload(node: ast.AST) -> bool:
    return isinstance(node, Function) and any(ast.unparse(d) == "overload" for d in node.decorator_list)


def _annotations(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.AnnAssign):
        yield "", node.annotation
    elif isinstance(node, Function):
        arguments = node.args
        plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in [*plain, arguments.vararg, arguments.kwarg]:
            if argument is not None and argument.annotation is not None:
                yield argument.arg, argument.annotation
        if node.returns is not None:
            yield "return", node.returns


def _anys(annotation: ast.expr) -> int:
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(annotation))


def count(root: Path = PACKAGE) -> dict[str, int]:
    """Return how often Any stands in each place: ``Class.method(argument)``, ``Class.method -> return``."""
    package = Package(root)
    found: dict[str, int] = {}
    done: set[int] = set()
    for name, node, path in package.public():
        members = list(package.members(node, path)) if isinstance(node, ast.ClassDef) else [("", node)]
        overloaded = {_name(member) for _, member in members if _is_overload(member)}
        for owner, member in members:
            inner = _name(member)
            if id(member) in done or (inner in overloaded and not _is_overload(member)):
                continue
            done.add(id(member))
            label = f"{owner}.{inner}" if owner else name
            for argument, annotation in _annotations(member):
                if number := _anys(annotation):
                    place = {"return": f"{label} -> return", "": label}.get(argument, f"{label}({argument})")
                    found[place] = found.get(place, 0) + number
    return found


def main() -> None:
    """Print the places and their sum."""
    found = count(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
    for place, number in sorted(found.items()):
        print(f"{number:3} {place}")
    print(f"{sum(found.values()):3} in all")


if __name__ == "__main__":
    main()
