"""CPU per operation of the Django cache and of cachelib, beside the Redis backends: `python -m tests.contrib.speed`.

A report, not a gate. `make test-contrib` prints it for the newest releases. Each line is the CPU of the calling process
(user and system) for one operation, the median of five rounds; the servers are processes of their own, and what they
spend is left out. The pairs take turns, so that the machine's mood is shared.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS, CALLS, BATCH = 5, 1000, 100
VALUE = {"name": "Ada", "roles": ["author", "editor"], "visits": 12}


def cpu() -> float:
    """Return the seconds of CPU that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(call: Callable[[], object], calls: int) -> float:
    """Return the microseconds of CPU of one call."""
    before = cpu()
    for _ in range(calls):
        call()
    return (cpu() - before) / calls * 1e6


def operations(cache: Any, many: str, increase: str) -> dict[str, tuple[Callable[[], object], int]]:
    """Return the measured calls, and how often each is made in a round."""
    rows = {f"key{n}": VALUE for n in range(BATCH)}
    get_many = (lambda: cache.get_many(rows)) if many == "list" else (lambda: cache.get_many(*rows))
    cache.set("key", VALUE)
    cache.set("number", 1)
    return {
        "get": (lambda: cache.get("key"), CALLS),
        "get, absent": (lambda: cache.get("absent"), CALLS),
        "set": (lambda: cache.set("key", VALUE, 60), CALLS),
        "add, present": (lambda: cache.add("key", VALUE, 60), CALLS),
        "incr": (lambda: getattr(cache, increase)("number"), CALLS),
        f"get_many of {BATCH}": (get_many, CALLS // 50),
        f"set_many of {BATCH}": (lambda: cache.set_many(rows, 60), CALLS // 50),
    }


def compare(title: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Print a table of both."""
    print(f"\n{title}: CPU of the caller for one call, microseconds\n")
    print(f"| {'operation':18} | {'Pegasus':>8} | {'Redis':>8} | ratio |")
    print(f"|{'-' * 20}|{'-' * 10}|{'-' * 10}|-------|")
    for name, (call, calls) in ours.items():
        rounds = [(measure(call, calls), measure(theirs[name][0], calls)) for _ in range(ROUNDS)]
        pegasus, redis = (statistics.median(column) for column in zip(*rounds))
        print(f"| {name:18} | {pegasus:8.0f} | {redis:8.0f} | {pegasus / redis:5.2f} |")


def main() -> int:
    """Start both servers and compare."""
    import shutil

    if shutil.which("redis-server") is None:
        print("no comparison of speed: redis-server is not installed")
        return 0
    from cachelib import RedisCache as CachelibRedis
    from django.core.cache.backends.redis import RedisCache as DjangoRedis

    from pegasus_green import shared_client
    from pegasus_green.contrib.cachelib import PegasusCache as CachelibPegasus
    from pegasus_green.contrib.django import PegasusCache as DjangoPegasus
    from pegasus_green.onebox import OneboxProcess
    from tests.contrib.servers import redis_server

    with tempfile.TemporaryDirectory() as scratch, redis_server(Path(scratch)) as port, OneboxProcess() as box:
        url = f"pegasus://{box.meta_addresses[0]}/temp"
        compare(
            "Django cache",
            operations(DjangoPegasus(url, {}), "list", "incr"),
            operations(DjangoRedis(f"redis://127.0.0.1:{port}", {}), "list", "incr"),
        )
        compare(
            "cachelib",
            operations(CachelibPegasus(url, key_prefix="c:"), "arguments", "inc"),
            operations(CachelibRedis(port=port, key_prefix="c:"), "arguments", "inc"),
        )
        shared_client(url).close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
