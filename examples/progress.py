"""How far is it? The worker reports, the publisher hears every report, in order."""

from __future__ import annotations

import threading

from thoonk_jobs import Broker, Job, Progress, Queue

PAGES = ["cover", "letters", "index"]


def work(queue: Queue) -> None:
    """Prints a book, page by page."""
    claim = queue.get()
    assert claim
    with claim:  # finishes at the end, or fails with the exception
        for number, page in enumerate(claim.data, 1):
            claim.set_progress(number, len(claim.data), f"printed {page}")
        claim.finish({"pages": len(claim.data)})


def report(job: Job, progress: Progress) -> None:
    print(f"{progress.percent:3.0f} % {progress.message}")


with Broker() as broker:
    queue = broker.queue("books")
    worker = threading.Thread(target=work, args=(queue,))
    worker.start()
    queue.publish(PAGES, on_progress=report, on_finish=lambda job: print("done:", job.result))
    broker.join()
    worker.join()
