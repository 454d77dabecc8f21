"""Owns the records of one replica and all reads and writes of them; never knows servers, sockets or a clock of its own.

The other packages use ``storage.Engine``. A scan context pins a state of the records, so a scan is consistent.
"""
