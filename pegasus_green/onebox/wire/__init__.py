"""Owns the server side of the protocol: frames, connections, listeners, faults; never knows what a request means."""
