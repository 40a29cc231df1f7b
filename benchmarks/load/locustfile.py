"""The load of the tutorial: users who wait 0.1 to 0.5 seconds between two requests.

    locust -f benchmarks/load/locustfile.py --headless -u 100 -r 100 -t 60s -H http://127.0.0.1:8080

100 users ask for at most 333 requests a second, however fast the service is: their mean wait is 0.3 s. So this load shows
latency. Throughput is shown by benchmarks/serve.py, whose clients do not wait.
"""

from __future__ import annotations

import random

from locust import FastHttpUser, between, task


class User(FastHttpUser):
    """Asks for the vector of one short text at a time; nearly every text is another one."""

    wait_time = between(0.1, 0.5)

    @task
    def embed(self) -> None:
        self.client.post("/embed", json={"inputs": f"How do I reset the password of account {random.randrange(1_000_000)}?"})
