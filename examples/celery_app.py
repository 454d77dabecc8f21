"""A Celery application whose results are in Pegasus.

    PEGASUS_URL=pegasus://127.0.0.1:34601/temp celery -A celery_app worker -P gevent -c 50
    PEGASUS_URL=pegasus://127.0.0.1:34601/temp python celery_app.py

The broker is Redis: redis://127.0.0.1:6379, or the URL in CELERY_BROKER.
"""

import os
import time

from celery import Celery, chord, group

app = Celery(
    "celery_app",
    broker=os.environ.get("CELERY_BROKER", "redis://127.0.0.1:6379"),
    backend=os.environ.get("PEGASUS_URL", "pegasus://127.0.0.1:34601/temp"),
)
app.conf.update(
    result_expires=3600,
    # Celery repeats a store that fails during a failover. It does not repeat incr, whose outcome may be unknown.
    result_backend_always_retry=True,
    result_backend_max_retries=5,
    worker_hijack_root_logger=False,
)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def fail(words: str) -> None:
    raise ValueError(words)


@app.task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "rested"


if __name__ == "__main__":
    squares = group(add.s(n, n) for n in range(10))().get(timeout=30)
    print("a group:", squares)
    print("a chord:", chord((add.s(n, n) for n in range(10)), total.s())().get(timeout=30))
