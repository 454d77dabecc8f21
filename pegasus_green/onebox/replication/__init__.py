"""Owns tables, partitions and replicas, and how they change; never answers a client's request itself."""
