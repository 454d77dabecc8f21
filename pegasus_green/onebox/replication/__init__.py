"""Owns tables, partitions and replicas, and how they change; never answers a request of a client by itself."""
