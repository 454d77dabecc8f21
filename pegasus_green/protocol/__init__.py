"""The Pegasus wire protocol without I/O: no sockets, no greenlets, no clock.

``binary`` and ``message`` are the codec, ``rrdb`` and ``meta`` the structs, ``rpc`` the table of RPCs, ``framing`` the
frames of requests and replies, ``session`` the state of one connection at either end.
"""
