"""The cluster of a command: from the command line, ``PEGASUS_URL``, or a named cluster of the config file."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument
from ..options import parse_url

# For example because "$TABLE" is unset in a script. The default table or cluster must not be used silently instead.
EMPTY = "--{} is empty: give a value, or omit the option"
_KEYS = {"meta", "url", "table", "timeout", "options"}


@dataclass(frozen=True)
class Place:
    """A cluster, and optionally a table.

    Attributes:
        metas: Meta servers as "host:port".
        table: Default table; "": none.
        options: Options of the client by name.
    """

    metas: tuple[str, ...]
    table: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def config_path() -> Path:
    """Return the default path of the config file."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "pegasus-green" / "config.toml"


def load_config(path: str | None) -> tuple[Path, dict[str, Any]]:
    """Return the config file's path and content. The content is empty if the default file does not exist.

    Raises:
        InvalidArgument: The file cannot be read, or is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    found = Path(path) if path else config_path()
    try:
        return found, tomllib.loads(found.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path:
            raise InvalidArgument(f"config file {found} does not exist") from None
        return found, {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"config file {found} cannot be read: {error}") from None


def cluster_names(path: str | None = None) -> list[str]:
    """Return the names of the clusters in the config file; an empty list if it cannot be read."""
    try:
        clusters = load_config(path)[1].get("clusters", {})
    except InvalidArgument:
        return []
    return sorted(clusters) if isinstance(clusters, dict) else []


def find_place(meta: str | None, url: str | None, cluster: str | None, config: str | None) -> Place:
    """Return the cluster: from the command line, else from PEGASUS_URL, else the default of the config file.

    Raises:
        InvalidArgument: There is no cluster, more than one, or the given name is unknown.
    """
    given = [f"--{name}" for name, value in (("meta", meta), ("url", url), ("cluster", cluster)) if value]
    if len(given) > 1:
        raise InvalidArgument(f"{' and '.join(given)} each name a cluster: give only one of them")
    if meta:
        return Place(tuple(part.strip() for part in meta.split(",") if part.strip()))
    # A config file on the command line overrides the environment.
    named = load_config(config) if config else None
    if url is None and cluster is None and not (named and named[1].get("default")):
        url = os.environ.get("PEGASUS_URL") or None
    if url:
        return _of_url(url)
    path, content = named or load_config(None)
    name = cluster or content.get("default")
    if not name:
        raise InvalidArgument(
            "no cluster given: use --meta HOST:PORT, --url URL or --cluster NAME; or set the environment variable"
            f" PEGASUS_URL, or default in {path}"
        )
    return _named(str(name), content, path)


def _of_url(url: str) -> Place:
    parsed = parse_url(url)
    return Place(tuple(parsed.metas), parsed.table, dict(vars(parsed.options)))


def _named(name: str, content: dict[str, Any], path: Path) -> Place:
    clusters = content.get("clusters", {})
    known = clusters.get(name) if isinstance(clusters, dict) else None
    if not isinstance(known, dict):
        names = ", ".join(clusters) if isinstance(clusters, dict) and clusters else "none"
        raise InvalidArgument(f"cluster {name!r} is not in {path}; known: {names}")
    unknown = sorted(known.keys() - _KEYS)
    if unknown:
        raise InvalidArgument(
            f"cluster {name!r} in {path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(_KEYS))}"
        )
    if ("url" in known) == ("meta" in known):
        raise InvalidArgument(f"cluster {name!r} in {path} needs either url or meta")
    if "url" in known:
        place = _of_url(known["url"])
    else:
        metas = known["meta"]
        listed = metas.split(",") if isinstance(metas, str) else metas
        if not isinstance(listed, list) or not all(isinstance(meta, str) for meta in listed):
            raise InvalidArgument(
                f"cluster {name!r} in {path}: meta must be a string or a list of strings, not {metas!r}"
            )
        place = Place(tuple(meta.strip() for meta in listed))
    changes = known.get("options", {})
    if not isinstance(changes, dict):
        raise InvalidArgument(
            f"cluster {name!r} in {path}: options must be a table of names and values, not {changes!r}"
        )
    options = {**place.options, **changes}
    if "timeout" in known:
        options["timeout"] = known["timeout"]
    return Place(place.metas, known.get("table", place.table), options)
