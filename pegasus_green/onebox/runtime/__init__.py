"""Owns what the parts of one onebox share: settings, clock, timers, random numbers, notes; never tables or sockets."""
