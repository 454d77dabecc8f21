"""The Pegasus wire protocol without I/O: no sockets, no greenlets, no clock.

``binary`` and ``message`` are the codec, ``rrdb`` and ``meta`` the structs, ``rpc`` the table of remote procedures,
``framing`` requests and replies as bytes, ``session`` the state of one connection for either end.
"""
