"""The client's sockets: one connection per server, shared by all greenlets, and what happens to it at fork()."""
