"""The stock way beside ours: Dramatiq as it comes, with a shared httpx client.

`dramatiq stock_actor` loads this file with its folder on the path, so that nothing of TaskQueue is in the
process; it is no module of the package `tq`, which knows no Dramatiq. As a script it sends jobs, one
`actor.send` for each, as fast as it goes or so many a second, and prints as JSON how many a second those
were and the instant before each send that was paced, in seconds of the machine's monotonic clock.
"""

import argparse
import json
import os
import time

import dramatiq
import httpx
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url=os.environ["STOCK_REDIS_URL"])
dramatiq.set_broker(broker)
client = httpx.Client()


@dramatiq.actor
def call(task: str, user: str, run: str) -> None:
    """Calls the endpoint for a user."""
    url = os.environ["STOCK_ENDPOINT"].format(user_id=user)
    client.post(url, json={"task_id": task, "user_id": user, "run_id": run}).raise_for_status()


@dramatiq.actor
def do_nothing(task: str, user: str, run: str) -> None:
    """Succeeds."""


def send(
    actor: "dramatiq.Actor[[str, str, str], None]", jobs: int, *, per_second: float
) -> dict[str, object]:
    """Sends so many jobs, as fast as it goes if there is no number per second."""
    sent_at: list[float] = []
    started = time.monotonic()
    for number in range(jobs):
        if per_second:
            time.sleep(max(0.0, started + number / per_second - time.monotonic()))
            sent_at.append(time.monotonic())
        actor.send("bench", f"{number:036d}", "bench")
    return {"jobs_per_second": jobs / (time.monotonic() - started), "sent_at": sent_at}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--per-second", type=float, default=0.0, help="0: as fast as it goes")
    parser.add_argument("--actor", choices=["call", "do_nothing"], default="call")
    options = parser.parse_args()
    print(json.dumps(send(globals()[options.actor], options.jobs, per_second=options.per_second)))
