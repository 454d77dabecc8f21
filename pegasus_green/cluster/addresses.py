"""Server addresses as text: "host:port", IPv6 in brackets."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import InvalidArgument
from ..options import DEFAULT_META_PORT


def parse_address(text: object, default_port: int = DEFAULT_META_PORT) -> str:
    """Return "host:port" ("[v6]:port") of a str or a (host, port) pair.

    Raises:
        InvalidArgument: There is no host, or the port is not from 1 to 65535.
    """
    if isinstance(text, (tuple, list)) and len(text) == 2:
        host, port_text = str(text[0]), str(text[1])
    elif isinstance(text, str):
        host, port_text = _split(text.strip(), default_port)
    else:
        raise InvalidArgument(
            f'a meta server must be "host:port" or (host, port), not {text!r}; meta servers are a list,'
            f' for example [("127.0.0.1", {default_port})]'
        )
    host = host.strip("[]")
    _check_separators(host + port_text, text)
    # isdigit() alone also accepts superscripts, and int() refuses thousands of digits.
    port = int(port_text) if port_text.isascii() and port_text.isdigit() and len(port_text) < 10 else 0
    if not host or not 0 < port < 65536:
        raise InvalidArgument(f'a meta server must be "host:port" with a port from 1 to 65535, not {text!r}')
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_separators(part: str, text: object) -> None:
    """Raise InvalidArgument if a part of the text has a character that separates servers in other notations."""
    if found := re.search(r"[\s;|/\[\]]", part):
        raise InvalidArgument(f"a host name cannot contain {found[0]!r}: {text!r}; commas separate meta servers")


def _split(text: str, default_port: int) -> tuple[str, str]:
    if text.startswith("["):
        if "]" not in text:
            raise InvalidArgument(
                f"the bracket of an IPv6 address is not closed in {text!r}: write [::1]:{default_port}"
            )
        host, _, rest = text[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") else "" if rest else str(default_port)
    if "@" in text:
        # The text before the @ can hold a password, so it is not in the message.
        raise InvalidArgument('a meta server must be "host:port", without a user name before it')
    if "://" in text:
        raise InvalidArgument(f'a meta server must be "host:port", not the URL {text!r}: use connect() for a URL')
    if text.count(":") > 1:
        # Several servers with a wrong separator have several colons, too.
        _check_separators(text, text)
        raise InvalidArgument(f"an IPv6 address must be in brackets, like [::1]:{default_port}, not {text!r}")
    host, colon, port = text.partition(":")
    return host, port if colon else str(default_port)


def parse_addresses(metas: object) -> list[str]:
    """Return the addresses of a list or of one comma-separated string, without duplicates.

    Raises:
        InvalidArgument: An address is invalid, or there is none.
    """
    items: Iterable[object]
    if isinstance(metas, str):
        items = [part for part in metas.split(",") if part.strip()]
    elif isinstance(metas, Iterable) and not isinstance(metas, (bytes, bytearray)):
        items = metas
    else:
        raise InvalidArgument(f"meta servers must be a list of addresses, not {metas!r}")
    found = list(dict.fromkeys(parse_address(item) for item in items))
    if not found:
        raise InvalidArgument("no meta server was given")
    return found
