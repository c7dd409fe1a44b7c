"""Many jobs at once: published in one call, taken in parts, their values collected in order."""

from __future__ import annotations

import threading

from thoonk_jobs import Broker, BrokerClosed, JobFailed, Publish, Queue


def work(queue: Queue) -> None:
    """Takes up to 100 jobs at a time."""
    try:
        while True:
            for claim in queue.get_many(100):
                if claim.data < 0:
                    claim.fail("no root of a negative number", final=True)
                else:
                    claim.finish(claim.data**0.5)
    except BrokerClosed:
        pass


broker = Broker()
queue = broker.queue("roots")
worker = threading.Thread(target=work, args=(queue,))
worker.start()

jobs = queue.publish_many([number * number for number in range(1000)])
print("published", len(jobs))
print("sum of the roots", sum(job.value(timeout=10) for job in jobs))

[bad, good] = queue.publish_many([-1, Publish(4, priority="high")])
print("a good one", good.value())
try:
    bad.value()
except JobFailed as error:
    print("a bad one", error.job.outcome, error.job.error.message)

queue.delete()
broker.close()
worker.join()
