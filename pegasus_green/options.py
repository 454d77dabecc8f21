"""Client options (frozen), their defaults, and their form in a URL."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, cast

from .errors import InvalidArgument
from .retry import RetryPolicy

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .auth import Authentication

DEFAULT_META_PORT = 34601


# Larger timeouts count as this one.
MAX_TIMEOUT = 86400.0
MAX_AUTH_TIMEOUT = 10.0
# Sequence ids and lengths of frames have 31 bits.
MAX_I32 = 2**31 - 1
# Requests per second. No client sends more.
MAX_RATE = 1_000_000


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        # An int that no float can hold.
        return False


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class HedgePolicy:
    """Hedged reads: if the primary is slow to answer a read, the client also sends the read to a secondary.

    The primary of a partition is the server that executes its reads and writes. Secondaries are the servers with its
    other copies. Pegasus calls the second request a backup request. The first good answer counts. The secondary's
    answer can be stale: a secondary applies a write when the next write of the partition arrives, or after up to 100 s
    if there is none. The client hedges ``get``, ``exist``, ``ttl``, ``multi_get`` and ``multi_get_sort_keys``, also if
    another verb sends these requests (``touch``, a reverse ``multi_get_iter``, a mapping).

    The second request needs a connection of the thread to a secondary. A new native thread has none, so its first slow
    read is not hedged: it only starts to connect. ``table.warm_up()`` in the thread makes all connections before.

    Attributes:
        delay: Seconds to wait for the primary before the client sends the second request.
        max_ratio: Maximum share of reads that are hedged, above 0 and at most 1. If reads become slow after many fast
            ones, up to 50 more reads of a table are hedged, in each thread.
    """

    delay: float = 0.02
    max_ratio: float = 0.1

    def __post_init__(self) -> None:
        """Raise InvalidArgument for invalid values."""
        if not (_is_number(self.delay) and self.delay > 0 and _is_number(self.max_ratio) and 0 < self.max_ratio <= 1):
            raise InvalidArgument(f"a hedge needs delay > 0 seconds and 0 < max_ratio <= 1, not {self}")


def check_hedge(hedge: object, header_version: int) -> None:
    """Raise InvalidArgument unless hedge is a HedgePolicy that the header can carry, or None."""
    if hedge is not None and not isinstance(hedge, HedgePolicy):
        raise InvalidArgument(f"hedge must be a HedgePolicy or None (off), not {hedge!r}")
    if hedge is not None and header_version == 0:
        raise InvalidArgument("hedge needs header_version=1: a v0 header cannot carry the backup flag")


def check_rate(max_rate: object) -> None:
    """Raise InvalidArgument unless max_rate is a number from above 0 to MAX_RATE, or None."""
    if max_rate is not None and (not _is_number(max_rate) or not 0 < cast("float", max_rate) <= MAX_RATE):
        raise InvalidArgument(
            f"max_rate must be a number of requests per second above 0 and at most {MAX_RATE:,}, or None (no limit),"
            f" not {max_rate!r}"
        )


class OptionChanges(TypedDict, total=False):
    """The options of ``ClientOptions`` as keywords of ``Client`` and ``connect``, for type checkers."""

    timeout: float
    connect_timeout: float
    meta_stagger: float
    refresh_interval: float
    refresh_period: float
    silence: float
    silent_window: float
    path_timeout: float | None
    retry: RetryPolicy | None
    max_in_flight: int
    max_queued_bytes: int
    max_frame: int
    max_write_bytes: int | None
    header_version: int
    hedge: HedgePolicy | None
    max_rate: float | None
    auth: Authentication | None
    auth_timeout: float
    auth_required: bool


@dataclass(frozen=True)
class ClientOptions:
    """All options of a client; times in seconds, sizes in bytes.

    The routes of a table are the addresses of the servers of each partition. A route query asks a meta server for them.

    Attributes:
        timeout: Deadline of one call with all its attempts; at most 24 h (86,400); a larger value counts as 24 h.
        connect_timeout: Limit of one attempt to connect. A call waits at most half of its remaining time for it.
        meta_stagger: If a meta server sends no answer for this long, the next one is asked, too.
        refresh_interval: Shortest time between two route queries for one table.
        refresh_period: Time between periodic route queries, +- 20 %; 0 turns them off.
        silence: If requests wait for a reply of a server and this server sends nothing for this long, the client
            queries the routes.
        silent_window: If a call times out and its connection has received nothing for this long, the client replaces
            the connection.
        path_timeout: The kernel ends a connection if the peer acknowledges neither requests nor keep-alive probes for
            this long; at least 3. A slow answer does not end it. None: the settings of the system.
        retry: Retry policy; None never repeats a request.
        max_in_flight: Maximum number of requests that wait for a reply on one connection; further callers wait. At most
            2147483647.
        max_queued_bytes: Maximum number of bytes that wait to be sent on one connection; further callers wait.
        max_frame: Largest reply, at most 2147483647; a larger one ends the connection.
        max_write_bytes: Largest body of a write request. None: only the server limits it (1 MiB by default).
        header_version: Version of the request header, 1 or 0; hedged reads need 1.
        hedge: Hedged reads; None: off. ``client.table(name, hedge=...)`` sets it for one table.
        max_rate: Maximum number of requests per second that this client sends to all tables together. Retries and each
            request of a bulk verb or scan count. A request waits for its turn, within its deadline. None: no limit.
        auth: How the client authenticates, for example a ``Kerberos``; None: no authentication.
        auth_timeout: Limit of the wait for credentials; at most 10 s. The authentication on a new connection has the
            same limit. The deadline of a call also limits both.
        auth_required: Whether the client refuses a server that runs without authentication.
    """

    timeout: float = 2.0
    connect_timeout: float = 1.0
    meta_stagger: float = 0.25
    refresh_interval: float = 0.3
    refresh_period: float = 30.0
    silence: float = 0.5
    silent_window: float = 10.0
    path_timeout: float | None = 3.0
    retry: RetryPolicy | None = RetryPolicy()
    max_in_flight: int = 20_000
    max_queued_bytes: int = 64 * 1024 * 1024
    max_frame: int = 64 * 1024 * 1024
    max_write_bytes: int | None = 1024 * 1024
    header_version: int = 1
    hedge: HedgePolicy | None = None
    max_rate: float | None = None
    auth: Authentication | None = None
    auth_timeout: float = 5.0
    auth_required: bool = True

    def __post_init__(self) -> None:
        """Raise InvalidArgument for an invalid value; the error names the option."""
        for name in ("timeout", "connect_timeout", "meta_stagger", "refresh_interval", "silence", "silent_window"):
            seconds = getattr(self, name)
            if not _is_number(seconds) or seconds <= 0:
                raise InvalidArgument(f"{name} must be a finite number of seconds above 0, not {seconds!r}")
        path = self.path_timeout
        if path is not None and (not _is_number(path) or path < 3):
            raise InvalidArgument(f"path_timeout must be None or 3 or more seconds, not {path!r}")
        if self.timeout > MAX_TIMEOUT:
            object.__setattr__(self, "timeout", MAX_TIMEOUT)
        if not _is_number(self.refresh_period) or self.refresh_period < 0:
            raise InvalidArgument(f"refresh_period must be 0 (off) or more seconds, not {self.refresh_period!r}")
        for name in ("max_in_flight", "max_queued_bytes", "max_frame", "max_write_bytes"):
            size = getattr(self, name)
            if size is None and name == "max_write_bytes":
                continue
            if not _is_whole(size) or size < 1:
                raise InvalidArgument(f"{name} must be a whole number above 0, not {size!r}")
            if size > MAX_I32 and name in ("max_in_flight", "max_frame"):
                raise InvalidArgument(
                    f"{name} must be at most {MAX_I32}, not {size}: the protocol has no larger number"
                )
        if not _is_whole(self.header_version) or self.header_version not in (0, 1):
            raise InvalidArgument(f"header_version must be 0 or 1, not {self.header_version!r}")
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise InvalidArgument(f"retry must be a RetryPolicy or None (off), not {self.retry!r}")
        check_hedge(self.hedge, self.header_version)
        check_rate(self.max_rate)
        self._check_auth()

    def _check_auth(self) -> None:
        if self.auth is not None and not callable(getattr(self.auth, "mechanism", None)):
            raise InvalidArgument(f"auth must be a Kerberos object or None (off), not {self.auth!r}")
        if not _is_number(self.auth_timeout) or not 0 < self.auth_timeout <= MAX_AUTH_TIMEOUT:
            raise InvalidArgument(
                f"auth_timeout must be above 0 and at most {MAX_AUTH_TIMEOUT:.0f} seconds, not {self.auth_timeout!r}"
            )
        if not isinstance(self.auth_required, bool):
            raise InvalidArgument(f"auth_required must be True or False, not {self.auth_required!r}")

    def with_(self, **changes: Unpack[OptionChanges]) -> ClientOptions:
        """Return a copy with some options changed.

        Args:
            **changes: New values by name.

        Raises:
            InvalidArgument: A name is unknown (the error suggests the nearest one), or a value is invalid.

        Example:
            >>> ClientOptions(timeout=2.0).with_(timeout=0.5).timeout
            0.5
        """
        _refuse_unknown(changes)
        return replace(self, **changes)


def _refuse_unknown(names: Iterable[str], *others: str) -> None:
    known = [*(field.name for field in fields(ClientOptions)), *others]
    for name in names:
        if name not in known:
            # Imported here, because it is rarely needed.
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            raise InvalidArgument(f"unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _number_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def _size_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def _retry(text: str) -> RetryPolicy | None:
    if text.lower() not in ("on", "off", "none"):
        raise ValueError(text)
    return RetryPolicy() if text.lower() == "on" else None


def _hedge(text: str) -> HedgePolicy | None:
    return None if text.lower() in ("off", "none") else HedgePolicy(delay=float(text))


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


# Parameters that a URL can have with ``auth=kerberos``. With ``auth=properties:`` all of them are in the file.
_AUTH_PARTS = ("service_name", "service_fqdn", "principal", "keytab", "ccache")


def _auth(text: str, parts: dict[str, str]) -> Authentication | None:
    """Return the option ``auth`` of a URL; parts: its other parameters about authentication."""
    from .auth import Kerberos

    if text == "kerberos":
        if "service_fqdn" not in parts:
            raise InvalidArgument("auth=kerberos in the URL needs service_fqdn=NAME, as in the servers' [security]")
        return Kerberos(**parts)
    if parts:
        raise InvalidArgument(f"{next(iter(parts))} in the URL belongs to auth=kerberos, not to auth={text!r}")
    if text.startswith("properties:"):
        return Kerberos.from_properties(text.removeprefix("properties:"))
    if text.lower() in ("", "none", "off"):
        return None
    raise InvalidArgument(f"auth in the URL must be kerberos, properties:PATH or none, not {text!r}")


# Parsers of the URL parameters that are not seconds.
_URL_TYPES: dict[str, Callable[[str], Any]] = {
    "path_timeout": _number_or_none,
    "max_in_flight": int,
    "max_queued_bytes": int,
    "max_frame": int,
    "max_write_bytes": _size_or_none,
    "header_version": int,
    "retry": _retry,
    "hedge": _hedge,
    "max_rate": _number_or_none,
    "auth": str,
    "auth_required": _flag,
}
# URL parameters for a part of an option: the option, its field, the parser.
_URL_PARTS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "max_attempts": ("retry", "max_attempts", _size_or_none),
    "retry_base": ("retry", "base", float),
    "retry_cap": ("retry", "cap", float),
    "retry_busy_factor": ("retry", "busy_factor", float),
    "hedge_max_ratio": ("hedge", "max_ratio", float),
}
# The values that each parser accepts, as text for errors.
_URL_WORDS: dict[Callable[[str], Any], str] = {
    float: "a number",
    int: "a whole number",
    _number_or_none: "a number or none",
    _size_or_none: "a whole number or none",
    _retry: "on or off",
    _hedge: "a number of seconds or off",
    _flag: "true or false",
}
_FORM = "pegasus://host:port,host:port/table?timeout=2"


class ParsedUrl(NamedTuple):
    """The parts of a URL.

    Attributes:
        metas: Meta servers.
        table: The table's name; "" if the URL has none.
        options: All options; those that the URL does not name have their defaults.
        codec: The codec's name; "" if the URL has none.
    """

    metas: list[str]
    table: str
    options: ClientOptions
    codec: str


def _shown(url: str) -> str:
    """Return a URL for a message. The text before an @ can hold a password, so it is left out."""
    address, mark, query = url.partition("?")
    return repr(re.sub(r"(?s)^(.*?://)?.*@", r"\1...@", address) + mark + query)


def parse_url(url: str) -> ParsedUrl:
    """Parse ``pegasus://host:port,host:port/table?timeout=2``.

    An IPv6 address is written in brackets. Special characters in the table's name are percent-encoded. A parameter is
    the name of an option and its value, for example ``timeout=2``, ``max_write_bytes=none``, ``retry=on`` or ``off``,
    ``hedge=SECONDS`` or ``off``. Fields of these two are ``max_attempts=3``, ``retry_base=0.01``,
    ``retry_cap=0.5``, ``retry_busy_factor=5`` and ``hedge_max_ratio=0.1``. ``codec=`` is ``json``, ``utf8``, ``zstd``,
    ``zstd+json`` or ``zstd+utf8``. ``auth=kerberos`` needs ``service_fqdn=NAME`` and can have ``service_name``,
    ``principal``, ``keytab`` and ``ccache``. With ``auth=properties:PATH``, the function reads a property file of the
    Java client.

    Raises:
        InvalidArgument: The URL is wrong; the message has the reason.
    """
    if not isinstance(url, str):
        raise InvalidArgument(f"a URL must be a str like {_FORM}, not {url!r}")
    # The text of an environment variable or a file often has blanks around it.
    scheme, separator, rest = url.strip().partition("://")
    if separator and scheme.lower() != "pegasus":
        raise InvalidArgument(f"{scheme}:// is not a Pegasus address: a URL has the form {_FORM}, not {_shown(url)}")
    if not separator or not rest:
        raise InvalidArgument(f"a URL must have the form {_FORM}, not {_shown(url)}")
    rest, _, query = rest.partition("?")
    hosts, _, path = rest.partition("/")
    # A password can contain a slash.
    if "@" in hosts or re.search("@.*/", path):
        raise InvalidArgument(f"a pegasus:// URL cannot have a user name or password; its form is {_FORM}")
    if "#" in rest or "#" in query:
        raise InvalidArgument(f"a pegasus:// URL cannot have a #fragment; write # as %23 in {_shown(url)}")
    metas = [host.strip() for host in hosts.split(",") if host.strip()]
    if not metas:
        raise InvalidArgument(f"no meta server in {_shown(url)}: a URL has the form {_FORM}")
    options, codec = _url_options(query)
    return ParsedUrl(metas, _url_table(path, _shown(url)), options, codec)


def _url_table(path: str, shown: str) -> str:
    path = path.removesuffix("/")
    if "/" in path or "#" in path:
        raise InvalidArgument(f"a URL can name only one table, not {shown}; write / as %2F and # as %23 in its name")
    if found := re.search("%(?![0-9A-Fa-f]{2})", path):
        raise InvalidArgument(f"{path[found.start() :][:3]!r} in {shown} is not a percent-encoding; write % as %25")
    try:
        from urllib.parse import unquote

        return unquote(path, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the table name in {shown} is not UTF-8: {error}") from None


def _url_options(query: str) -> tuple[ClientOptions, str]:
    from urllib.parse import parse_qsl

    found: dict[str, Any] = {}
    parts: list[tuple[str, str, Any]] = []
    codec = ""
    credentials: dict[str, str] = {}
    seen: set[str] = set()
    for name, text in parse_qsl(query, keep_blank_values=True):
        read: Callable[[str], Any] = _URL_TYPES.get(name, float)
        _refuse_unknown([name], *_URL_PARTS, *_AUTH_PARTS, "codec")
        if name in seen:
            raise InvalidArgument(f"option {name} appears twice in the URL")
        seen.add(name)
        try:
            if name == "codec":
                # "+" in a query string means a space.
                codec = text.replace(" ", "+")
            elif name in _AUTH_PARTS:
                credentials[name] = text
            elif name in _URL_PARTS:
                option, field, read = _URL_PARTS[name]
                parts.append((option, field, read(text)))
            else:
                found[name] = read(text)
        except InvalidArgument:
            raise
        except ValueError:
            raise InvalidArgument(f"option {name} in the URL must be {_URL_WORDS[read]}, not {text!r}") from None
    if "auth" in found or credentials:
        found["auth"] = _auth(found.get("auth", "none"), credentials)
    options = ClientOptions(**found)
    for option, field, value in parts:
        policy = getattr(options, option)
        if policy is None:
            raise InvalidArgument(f"{option} is off, so the URL cannot set its {field}")
        options = options.with_(**{option: replace(policy, **{field: value})})
    return options, codec
