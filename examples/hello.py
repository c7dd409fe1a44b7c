"""Hand over a job, hear when it is done. Publisher and worker are threads of one program here, for once."""

from __future__ import annotations

import threading

from thoonk_jobs import Broker, BrokerClosed, Job, Queue


def work(queue: Queue) -> None:
    """Takes one job after the other, until the broker is closed."""
    try:
        while claim := queue.get():
            claim.finish(f"hello, {claim.data}")
    except BrokerClosed:
        print("the worker leaves")


def tell(job: Job) -> None:
    """Called once, on a thread of the library, when the job is finished."""
    print(f"{job.data} -> {job.result}")


broker = Broker()
queue = broker.queue("hello")
worker = threading.Thread(target=work, args=(queue,))
worker.start()

for name in ("ann", "bob", "cleo"):
    queue.publish(name, on_finish=tell)

broker.join()  # every on_finish was called
broker.close()  # the waiting `get` ends
worker.join()
