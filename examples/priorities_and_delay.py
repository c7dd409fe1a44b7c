"""What runs first: the more urgent, then the older; and nothing before its time."""

from __future__ import annotations

from thoonk_jobs import Broker, State

with Broker() as broker:
    queue = broker.queue("errands")
    queue.publish("water the plants")
    queue.publish("later: call back", delay=1, priority="critical")
    queue.publish("sort the photos", priority="low")
    queue.publish("post the letter", priority="high")
    queue.publish("buy bread", priority=5.5)  # any number; the words are -10, 0, 10 and 20
    queue.publish("the house is on fire", priority="front")

    counts = queue.counts()
    print("scheduled:", counts[State.SCHEDULED], "available:", counts[State.AVAILABLE])
    for _ in range(6):
        claim = queue.get(timeout=5)  # wakes when the delay is over; nothing polls
        assert claim
        print(f"{claim.priority:g}: {claim.data}")
        claim.finish()
    queue.delete()
