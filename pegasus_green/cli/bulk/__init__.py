"""Commands for many rows: export, import, copy and clear, with progress, limits, and a state file to resume from.

``formats`` writes and reads files of rows, ``state`` stores the progress on disk, ``pace`` limits and shows the speed,
``tables`` reads from and writes to tables, ``commands`` has the commands.
"""
