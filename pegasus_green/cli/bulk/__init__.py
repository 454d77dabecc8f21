"""Many rows: export, import, copy and clear, with progress, limits and a state file to go on from after a kill.

``formats`` writes and reads files of rows, ``state`` keeps what is done on disk, ``pace`` limits and shows the speed,
``source`` and ``sink`` are tables to read from and write to, ``commands`` puts them together.
"""
