"""Fair to all customers: each has so many jobs in hand and at work, and one whose jobs keep failing is shut out."""

from __future__ import annotations

from thoonk_jobs import EACH_KEY, Broker, KeyBlocked, LimitReached

with Broker() as broker:
    queue = broker.queue("reports")
    queue.limit(EACH_KEY, running=1, pending=3, block_after=(2, 60, 3600))
    queue.limit("big & co", running=2)  # its own number; the others are those of each key

    for customer in ("big & co", "small"):
        for page in (1, 2, 3):
            queue.publish(f"{customer}, page {page}", key=customer)
    try:
        queue.publish("small, page 4", key="small")
    except LimitReached as error:
        print(f"{error.key} has its {error.limit} jobs already")

    while claims := queue.get_many(10, timeout=0):  # what may run at once, here one round after the other
        print("at work:", "; ".join(claim.data for claim in claims))
        for claim in claims:
            claim.finish()

    queue.limit("small", running=5)  # takes effect at once, in every process
    for page in (1, 2):
        queue.publish(f"small, page {page}", key="small")
        queue.get(timeout=0).fail("cannot be printed", final=True)
    try:
        queue.publish("small, page 3", key="small")
    except KeyBlocked as error:
        print(f"{error.key} is blocked for an hour: {error.reason}")
    queue.unblock("small")
    print("blocked:", queue.blocked_keys())
    queue.delete()
