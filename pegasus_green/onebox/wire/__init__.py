"""Owns the server's side of the wire: frames, connections, listeners, faults; never knows what a request means."""
