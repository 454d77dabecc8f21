"""Signatures of the API reference: every overload as a type checker sees it, with readable defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import griffe

# Defaults that stand for an option of the client, by the name of the parameter.
_FROM_CLIENT = {"retry": "client.options.retry", "hedge": "client.options.hedge"}
# Users read the names of these options on the page of ClientOptions, and in the description of Onebox.fault.
_KEPT = ("OptionChanges", "FaultOptions")
# Type checkers see these rows as NamedTuples, and the interpreter as subclasses of namedtuple.
_ROW_FIELDS = {"hash_key": "bytes", "sort_key": "bytes", "value": "V", "ttl": "float"}
# Bases that have the verbs of Table.
_GROUP = "Operations["


class Part(NamedTuple):
    """One parameter, as it is shown."""

    name: str
    annotation: str = ""
    default: str = ""

    def __str__(self) -> str:
        """Return ``name: annotation = default``."""
        text = f"{self.name}: {self.annotation}" if self.annotation else self.name
        return f"{text} = {self.default}" if self.default else text


def target(found: Any) -> Any:
    """Return the object that an alias stands for."""
    return found.final_target if found.is_alias else found


def signatures(found: Any, name: str) -> Iterator[str]:
    """Yield the signature of a function, or that of each overload."""
    overloads = found.overloads or []
    # A class method is called on the class. The heading has the name of the class.
    prefix = f"{found.parent.name}." if found.labels & {"classmethod", "staticmethod"} else ""
    for each in overloads or [found]:
        yield signature(prefix + name, each, found)


def of_class(cls: Any, name: str) -> Iterator[str]:
    """Yield the signatures of the constructor of a class, none if it is not the package's."""
    for base in cls.bases:
        if str(base).startswith("namedtuple("):
            fields = str(base).split("'" if "'" in str(base) else '"')[3].split()
            yield f"{name}({', '.join(f'{field}: {_ROW_FIELDS[field]}' for field in fields)})"
            return
    initial = cls.all_members.get("__init__")
    if initial is None or not initial.path.startswith("pegasus_green"):
        return
    initial = target(initial)
    for each in initial.overloads or [initial]:
        yield signature(name, each, initial, returns=False)


def of_twin(verb: Any, name: str) -> str:
    """Return the signature of the ``*_async`` twin of a verb: one for all overloads."""
    overloads = verb.overloads or [verb]
    declared: dict[str, list[str]] = {}
    for each in overloads:
        for parameter in each.parameters:
            options = _options(parameter, verb) if str(parameter.kind.value) == "variadic keyword" else []
            for part in options or [_part(parameter, "", verb)]:
                types = declared.setdefault(part.name, [])
                types += [] if part.annotation in types else [part.annotation]
    parts: list[str] = []
    for parameter in verb.parameters:
        if parameter.name != "self":
            if str(parameter.kind.value) == "keyword-only" and "*" not in parts:
                parts.append("*")
            types = declared[parameter.name]
            annotation = " | ".join(dict.fromkeys(" | ".join(types).split(" | ")))
            if "bool" in types:
                annotation = "bool"
            elif len(types) > 1 and any("[" in each for each in types):
                annotation = types[0]
            parts.append(str(Part(parameter.name, annotation, _part(parameter, "", verb).default)))
    results = {str(each.returns) for each in overloads}
    # The docstring says that the result is that of the verb.
    return _laid_out(name, parts, f" -> Handle[{results.pop() if len(results) == 1 else '...'}]")


def type_of(member: Any) -> str:
    """Return the type of an attribute or property, "" if it is not declared."""
    shown = member.annotation if member.is_attribute else member.returns
    return "" if shown is None else str(shown)


def signature(name: str, function: Any, whole: Any, *, returns: bool = True) -> str:
    """Return one signature; ``whole`` is the implementation of an overload, which has all defaults."""
    parts: list[str] = []
    note = ""
    star = False
    before = ""
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            note = _receiver(parameter.annotation)
            continue
        kind = str(parameter.kind.value)
        if kind != "positional-only" and before == "positional-only":
            parts.append("/")
        before = kind
        options = _options(parameter, whole) if kind == "variadic keyword" else []
        if (kind == "keyword-only" or options) and not star:
            parts.append("*")
            star = True
        prefix = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        star = star or prefix == "*"
        parts += map(str, options or [_part(parameter, prefix, whole)])
    end = f" -> {_own_type(str(function.returns), whole)}" if returns and function.returns is not None else ""
    return note + _laid_out(name, parts, end)


def _laid_out(name: str, parts: list[str], end: str) -> str:
    line = f"{name}({', '.join(parts)}){end}"
    return line if len(line) <= 90 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n){end}"


def default_of(value: Any, name: str = "") -> str:
    """Return a default as users read it: the value of a constant, and the option that a sentinel stands for."""
    if not isinstance(value, griffe.ExprName) or not value.canonical_path.startswith("pegasus_green."):
        return str(value)
    path = value.canonical_path
    if path.endswith(".DEFAULT"):
        return _FROM_CLIENT[name]
    try:
        constant = _find(path, value.parent)
    except KeyError:
        return str(value)
    if not constant.is_attribute or constant.value is None or "*" in str(constant.value).replace(" * ", ""):
        # The docstring describes a value that is too long for a signature.
        return str(value)
    return default_of(constant.value)


def _find(path: str, near: Any) -> Any:
    """Return the object with a full name in the package of another object."""
    while near.parent is not None:
        near = near.parent
    return target(near[path.removeprefix(f"{near.name}.")])


def _part(parameter: Any, prefix: str, whole: Any) -> Part:
    annotation = "" if parameter.annotation is None else str(parameter.annotation)
    default = parameter.default
    if default is None or prefix:
        return Part(prefix + parameter.name, annotation)
    if str(default) == "...":
        default = next(each.default for each in whole.parameters if each.name == parameter.name)
    return Part(parameter.name, annotation, default_of(default, parameter.name))


def _options(parameter: Any, whole: Any) -> list[Part]:
    """Return the options that an overload takes as ``**options``; the implementation has their defaults."""
    text = str(parameter.annotation)
    if not text.startswith("Unpack[") or any(name in text for name in _KEPT):
        return []
    path = parameter.annotation.slice.canonical_path
    declared = _find(path, whole)
    defaults = {each.name: each.default for each in whole.parameters}
    fields = [member for owner in [*reversed(declared.mro()), declared] for member in owner.members.items()]
    return [
        Part(name, str(member.annotation), default_of(defaults[name], name))
        for name, member in fields
        if member.is_attribute
    ]


def _receiver(annotation: Any) -> str:
    """Return a comment that names the receiver of an overload, "" for any receiver."""
    text = "" if annotation is None else str(annotation)
    if "[" not in text or text.startswith("type["):
        return ""
    return f"# of {'Table[' + text.partition('[')[2] if _GROUP in text else text}\n"


def _own_type(returned: str, function: Any) -> str:
    """Return the name of the class for the type variable of ``self``."""
    first = next(iter(function.parameters), None)
    receiver = "" if first is None or first.annotation is None else str(first.annotation)
    own = receiver.removeprefix("type[").removesuffix("]")
    return str(function.parent.name) if returned == own else returned
