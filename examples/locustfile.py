"""A load test of a Pegasus table with Locust.

    pip install '.[locust]'  # in a checkout of this project
    python -m pegasus_green onebox --port 34601 --table temp:8
    locust -f examples/locustfile.py --host pegasus://127.0.0.1:34601/temp --headless -u 100 -r 100 -t 30s

Without ``--headless`` Locust serves its pages on port 8089.
"""

import random

from locust import between, task

from pegasus_green.contrib.locust import PegasusUser


class Shopper(PegasusUser):
    wait_time = between(0.001, 0.01)

    def on_start(self):
        self.name = f"load:{random.randrange(10_000)}"
        self.table.set(self.name, "profile", "x" * 200, ttl=3600)

    @task(8)
    def look_at_profile(self):
        self.table.get(self.name, "profile")

    @task(2)
    def look_at_some(self):
        self.table.get_many([(f"load:{random.randrange(10_000)}", "profile") for _ in range(5)])

    @task(1)
    def visit(self):
        self.table.incr(self.name, "visits", ttl=3600)
