"""Owns the handles that programs and tests use for a onebox; never answers a client's request."""
