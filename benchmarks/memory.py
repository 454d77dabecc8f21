"""The resident memory of a process. It imports almost nothing, because it also measures what an import costs."""

import os


def resident(pid: int | str = "self") -> list[float]:
    """Return the resident MiB of a process; an empty list if the system is not Linux."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            return [int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20]
    except FileNotFoundError:
        return []
