"""SASL negotiation with a server that runs without authentication."""

from __future__ import annotations

from ...protocol.meta import Negotiation
from ...protocol.rpc import NEGOTIATION
from ..wire.frames import Call, ok_reply
from ..wire.server import Server

SASL_AUTH_DISABLE = 9


def negotiate(server: Server, call: Call) -> None:
    """Tell the client that no authentication is needed, whatever it says."""
    server.send(call, ok_reply(NEGOTIATION, call.seqid, Negotiation(status=SASL_AUTH_DISABLE).encode()))
