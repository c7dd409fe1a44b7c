"""A job fails, is set aside, somebody looks at the error, mends the cause, and lets it run again."""

from __future__ import annotations

from thoonk_jobs import Broker, State

prices: dict[str, int] = {}


def work() -> None:
    """Does what there is; an exception inside `with claim` is a failed attempt."""
    while claim := queue.get(timeout=0):
        try:
            with claim:
                claim.finish(prices[claim.data["fruit"]] * claim.data["number"])
        except KeyError:
            pass  # the job knows


with Broker() as broker:
    queue = broker.queue("bills")
    job = queue.publish({"fruit": "pear", "number": 3}, max_attempts=2)
    work()

    for stalled in queue.jobs(State.STALLED).jobs:
        assert stalled.error
        print(f"stalled after {stalled.failures} failures: {stalled.error.type}: {stalled.error.message}")
    prices["pear"] = 7
    queue.retry(job.id)
    print(f"retried: it is {job.refresh().state}, with {job.refresh().failures} failures")
    work()
    print(f"finished: {job.value()}, {job.refresh().total_failures} failures in all")
    queue.delete()
