"""Owns the handles by which a program or test uses a onebox; never answers a client's request."""
