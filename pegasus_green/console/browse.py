"""The pages of a hash key and of one row, and the changes of a row."""

from __future__ import annotations

import hashlib
import json
import math

from ..cli.text import CODINGS
from ..client import Client
from ..errors import InvalidArgument
from .markup import Html, address, html, join, link, table
from .request import Page, Redirect, Refused, Request, bad, name_key, read_key, show_key

PAGE = 50
# Of a longer value, a page shows this many bytes.
SHOWN = 64 * 1024
SHOWN_HEX = 4 * 1024
# A page shows indented JSON only if it has at most this many characters.
SHOWN_JSON = 1024 * 1024
TOO_DEEP = "The value is nested too deeply to be shown as JSON."
_PRE = '<pre tabindex="0">{text}</pre>'


def _input(name: str, label: str, value: str, note: str = "") -> Html:
    return html(
        '<div><label for="{name}">{label}</label><input id="{name}" name="{name}" value="{value}" {note}></div>',
        name=name,
        label=label,
        value=value,
        note=Html(note),
    )


def _search(client: Client, request: Request, name: str, hash_key: str, sort_key: str | None) -> Html:
    names = [info.name for info in client.admin.list_tables()]
    choices = join(
        html("<option{chosen}>{name}</option>", chosen=Html(" selected") if found == name else Html(), name=found)
        for found in names
    )
    return html(
        '<form method="get" action="{here}"><div><label for="table">Table</label><select id="table" name="table">'
        "{choices}</select></div>{hash}{sort}<button>Find</button></form>"
        '<p class="note">Keys are UTF-8. Write \\\\ for a backslash and \\xNN for any other byte. Without a sort key,'
        " all sort keys of the hash key are listed.</p>",
        here=address(request.base, "/browse"),
        choices=choices,
        hash=_input("hash", "Hash key", hash_key),
        sort=_input("sort", "Sort key", sort_key or ""),
    )


def browse(client: Client, request: Request) -> Page:
    """List the sort keys of a hash key, page by page."""
    name, hash_text = request.query.get("table", ""), request.query.get("hash", "")
    sort_text = request.query.get("sort", "")
    if sort_text:
        return row(client, request)
    search = _search(client, request, name, hash_text, "")
    if not name or not hash_text:
        return Page("Browse", search)
    hash_key = request.key("hash")
    if "after" in request.query:
        after = request.key("after")
        found = client.table(name).multi_get(
            hash_key, start=after, start_inclusive=False, no_value=True, max_count=PAGE
        )
    else:
        found = client.table(name).multi_get(hash_key, no_value=True, max_count=PAGE)
    where = {"table": name, "hash": hash_text}
    rows = [[link(request.base, "/row", name_key(key), sort=show_key(key), **where)] for key in found]
    listed = table(f"Sort keys of {name_key(hash_key)}", ["sort key"], rows)
    steps = []
    if "after" in request.query:
        steps.append(html("<p>{link}</p>", link=link(request.base, "/browse", "First page", **where)))
    if not found.complete and found.last_key is not None:
        following = link(request.base, "/browse", "Next page", after=show_key(found.last_key), **where)
        steps.append(html("<p>{link}</p>", link=following))
    return Page("Browse", join([search, listed, *steps]))


def _json_of(value: bytes, text: str | None) -> tuple[str, str]:
    """Return a value as indented JSON and "", or "" and the reason why the page shows no JSON."""
    if len(value) > SHOWN:
        return "", "The value is too long to be shown as JSON."
    parts, size = [], 0
    try:
        # Each line is indented by the depth, so a deeply nested value can become a thousand times as long.
        for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(text or "")):
            parts.append(part)
            size += len(part)
            if size > SHOWN_JSON:
                return "", TOO_DEEP
    except ValueError:
        return "", "The value is not JSON."
    except RecursionError:
        return "", TOO_DEEP
    return "".join(parts), ""


def _dump(data: bytes) -> str:
    lines = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        seen = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:06x}  {part.hex(' '):<47}  {seen}")
    return "\n".join(lines)


def _forms(value: bytes) -> Html:
    """Show a value as text, JSON and hex."""
    head = value[:SHOWN]
    # A character may be cut at the end of the shown part.
    text: str | None = head.decode("utf-8", "ignore")
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    parts = [html("<h2>Text</h2>")]
    if text is None:
        parts.append(html('<p class="note">Not UTF-8; bytes that are not text are escaped.</p>'))
    parts.append(html(_PRE, text=show_key(head) if text is None else text))
    pretty, why = _json_of(value, text)
    parts.append(html("<h2>JSON</h2>"))
    parts.append(html('<p class="note">{why}</p>', why=why) if why else html(_PRE, text=pretty))
    parts.append(html('<h2>Hex</h2><pre class="hex" tabindex="0">{text}</pre>', text=_dump(value[:SHOWN_HEX])))
    cuts = [f"text {SHOWN:,}"] * (len(value) > SHOWN) + [f"hex {SHOWN_HEX:,}"] * (len(value) > SHOWN_HEX)
    if cuts:
        shown = ", ".join(cuts)
        parts.append(html('<p class="note">First bytes shown: {cuts} of {all}.</p>', cuts=shown, all=f"{len(value):,}"))
    return join(parts)


def _seen(value: bytes | None) -> str:
    return "" if value is None else hashlib.sha256(value).hexdigest()


def _editor(request: Request, target: str, value: bytes | None, ttl: float | None) -> Html:
    """Return the forms that change and remove a row."""
    if value is not None and len(value) > SHOWN:
        edit = html('<p class="note">The value is too long to be edited here.</p>')
    else:
        is_text = value is None or "\\x" not in show_key(value)
        coding = "text" if is_text else "hex"
        choices = join(
            html("<option{chosen}>{name}</option>", chosen=Html(" selected") if name == coding else Html(), name=name)
            for name in CODINGS
        )
        edit = html(
            '<form method="post" action="{target}">{hidden}<input type="hidden" name="action" value="set">'
            '<div class="wide"><label for="value">Value</label>'
            '<textarea id="value" name="value" rows="6" spellcheck="false">\n{value}</textarea></div>'
            '<div><label for="coding">Written as</label><select id="coding" name="coding">{choices}</select></div>'
            '<div><label for="ttl">Seconds until it expires (empty: never, or the default of the table)</label>'
            '<input id="ttl" name="ttl" inputmode="numeric" value="{ttl}"></div><button>Store</button></form>'
            '<p class="note">In text, write \\\\ for a backslash and \\n or \\xNN for other bytes.</p>',
            target=target,
            hidden=_hidden(request, value),
            value="" if value is None else CODINGS[coding].encode(value),
            choices=choices,
            ttl="" if ttl is None or math.isinf(ttl) else f"{ttl:.0f}",
        )
    remove = Html()
    if value is not None:
        remove = html(
            '<h2>Remove</h2><form method="post" action="{target}">{hidden}<input type="hidden" name="action"'
            ' value="remove"><div><input type="checkbox" id="sure" name="sure" value="yes" required>'
            ' <label class="inline" for="sure">Remove this row permanently</label></div>'
            '<button class="danger">Remove</button></form>',
            target=target,
            hidden=_hidden(request, value),
        )
    return html(
        "<h2>{title}</h2>{edit}{remove}", title="Edit" if value is not None else "New row", edit=edit, remove=remove
    )


def _hidden(request: Request, value: bytes | None) -> Html:
    return html(
        '<input type="hidden" name="token" value="{token}"><input type="hidden" name="seen" value="{seen}">',
        token=request.token,
        seen=_seen(value),
    )


def row(client: Client, request: Request) -> Page:
    """Show one row as text, JSON and hex."""
    name, hash_key, sort_key = request.need("table"), request.key("hash"), request.key("sort")
    if not hash_key and not sort_key:
        raise bad("The address names neither a hash key nor a sort key.")
    handle = client.table(name)
    value = handle.get(hash_key, sort_key)
    ttl = None if value is None else handle.ttl(hash_key, sort_key)
    where = {"table": name, "hash": show_key(hash_key)}
    back = link(request.base, "/browse", "All sort keys of this hash key", **where)
    expires = "never" if ttl is not None and math.isinf(ttl) else "now" if ttl is None else f"{ttl:,.0f} s"
    facts = [
        ("Table", name),
        ("Hash key", show_key(hash_key) or "(empty)"),
        ("Sort key", show_key(sort_key) or "(empty)"),
    ]
    if value is not None:
        facts += [("Bytes", f"{len(value):,}"), ("Expires in", expires)]
    head = join(html("<div><dt>{name}</dt><dd>{text}</dd></div>", name=fact, text=text) for fact, text in facts)
    if value is None:
        shown = html('<p class="bad">There is no such row.</p>')
    else:
        shown = _forms(value)
    editor = Html()
    if request.write:
        # The form goes to the row's own address, whatever the address of this page is.
        target = address(request.base, "/row", sort=show_key(sort_key), **where)
        editor = _editor(request, target, value, ttl)
    body = html("<dl>{head}</dl><p>{back}</p>{shown}{editor}", head=head, back=back, shown=shown, editor=editor)
    return Page("Row", body, "200 OK" if value is not None else "404 Not Found")


def change(client: Client, request: Request) -> Redirect:
    """Store or remove a row, if it has not changed since the form's page.

    Raises:
        Refused: The form is wrong, or the row has changed since.
    """
    name, hash_key, sort_key = request.need("table"), request.key("hash"), request.key("sort")
    if not hash_key and not sort_key:
        raise bad("The address names neither a hash key nor a sort key.")
    form = request.form
    action = form.get("action")
    if action == "set":
        new: bytes | None = _new_value(form)
        ttl = _ttl(form.get("ttl", ""))
    elif action == "remove":
        if form.get("sure") != "yes":
            raise bad("Tick the box to remove the row. Nothing was changed.")
        new, ttl = None, None
    else:
        raise bad("The form has no valid action: it must be set or remove.")
    handle = client.table(name)
    old = handle.get(hash_key, sort_key)
    is_same = _seen(old) == form.get("seen", "")
    if is_same and hash_key:
        is_same = bool(handle.compare_exchange(hash_key, sort_key, old, new, ttl=ttl))
    elif is_same and new is not None:
        # Servers cannot check and set a row with an empty hash key.
        handle.set(hash_key, sort_key, new, ttl=ttl)
    elif is_same:
        handle.remove(hash_key, sort_key)
    if not is_same:
        raise Refused(
            "409 Conflict", "The row has changed since the page was opened. Nothing was changed: open the row again."
        )
    where = {"table": name, "hash": show_key(hash_key)}
    if new is None and hash_key:
        return Redirect(address(request.base, "/browse", **where))
    return Redirect(address(request.base, "/row", sort=show_key(sort_key), **where))


def _new_value(form: dict[str, str]) -> bytes:
    coding = CODINGS.get(form.get("coding", "text"))
    if coding is None:
        raise bad(f"The coding of the value must be one of {', '.join(CODINGS)}.")
    # A form sends each end of line as CR LF.
    text = form.get("value", "").replace("\r\n", "\n")
    if coding.name == "text":
        return read_key(text, "The value")
    try:
        return coding.decode("".join(text.split()))
    except InvalidArgument:
        raise bad(f"The value is not {coding.name}. Nothing was changed.") from None


def _ttl(text: str) -> float | None:
    text = text.strip()
    if not text:
        return None
    if not text.isdecimal() or len(text) > 10 or not 0 < int(text) < 2**31:
        raise bad("The seconds until the row expires must be a whole number above 0, or empty. Nothing was changed.")
    return float(text)
