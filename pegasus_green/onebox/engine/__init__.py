"""Owns the records of one replica and every read and write on them; never knows servers, sockets or a clock of its own.

``storage.Engine`` is what the rooms above use. A scan context pins a state of the records, so a scan is consistent.
"""
