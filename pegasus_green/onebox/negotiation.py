"""SASL negotiation with a server that runs without authentication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol.meta import Negotiation
from ..protocol.rpc import NEGOTIATION
from .wire import ok_reply

if TYPE_CHECKING:
    from .net import Server
    from .wire import Call

SASL_AUTH_DISABLE = 9


def negotiate(server: Server, call: Call) -> None:
    """Tell the client that no authentication is needed, whatever it says."""
    server.send(call, ok_reply(NEGOTIATION, call.seqid, Negotiation(status=SASL_AUTH_DISABLE).encode()))
