"""A request of a page, and the errors that refuse one."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from ..cli.text import escape, unescape
from ..errors import InvalidArgument
from .markup import Html

# A value of 1 MiB, the default limit of a server, as percent-encoded hex digits or escapes.
MAX_BODY = 8 * 1024 * 1024
MAX_FIELDS = 20
# Lists show so many bytes of a key.
LISTED = 100


class Refused(Exception):
    """A request is refused; the answer is a page with an error status.

    Attributes:
        status: The HTTP status, for example "404 Not Found".
        text: The reason, and what the user can do.
        headers: Further headers of the answer.
    """

    def __init__(self, status: str, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(status)
        self.status, self.text, self.headers = status, text, headers


def bad(text: str) -> Refused:
    """Return the error for wrong input."""
    return Refused("400 Bad Request", text)


@dataclass(frozen=True)
class Page:
    """The result of a page function."""

    title: str
    body: Html
    status: str = "200 OK"


@dataclass(frozen=True)
class Redirect:
    """A page function's redirect to another page."""

    address: str


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        base: The path under which the console is mounted, "" at the root.
        query: The parameters of the address.
        form: The parameters in the body of a POST.
        write: Whether the console may change rows.
        token: A token in forms that proves that they come from this console.
    """

    base: str
    query: dict[str, str]
    form: dict[str, str] = field(default_factory=dict)
    write: bool = False
    token: str = ""

    def need(self, name: str) -> str:
        """Return a required parameter.

        Raises:
            Refused: The parameter is missing or empty.
        """
        found = self.query.get(name, "")
        if not found:
            raise bad(f"The address has no parameter {name!r}.")
        return found

    def key(self, name: str) -> bytes:
        """Return a parameter as the bytes of a key; empty if it is missing.

        Raises:
            Refused: It is not valid escaped text.
        """
        return read_key(self.query.get(name, ""), name)


def read_key(text: str, name: str) -> bytes:
    """Return the bytes of an escaped text.

    Raises:
        Refused: It is not valid escaped text.
    """
    try:
        return unescape(text)
    except (InvalidArgument, UnicodeEncodeError):
        raise bad(f"{name} is not valid escaped text: write \\\\ for a backslash and \\xNN for a byte.") from None


def show_key(key: bytes) -> str:
    """Return a key as escaped text."""
    return escape(key)


def name_key(key: bytes) -> str:
    """Return a short name of a key, for a list: long keys are cut."""
    if not key:
        return "(empty)"
    return show_key(key) if len(key) <= LISTED else f"{show_key(key[:LISTED])}... ({len(key):,} bytes)"


def fields(text: str, what: str) -> dict[str, str]:
    """Read the parameters of an address or a form.

    Raises:
        Refused: They are not UTF-8, or too many.
    """
    try:
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError:  # UnicodeDecodeError is a subclass
        raise bad(f"{what} cannot be read: it must be UTF-8 with at most {MAX_FIELDS} parameters.") from None
