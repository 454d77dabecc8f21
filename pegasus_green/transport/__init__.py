"""The client's sockets: one connection per server, shared by all greenlets, and their handling at fork()."""
