"""Listens to all that happens in a queue while a worker is busy; a second listener begins in the past."""

from __future__ import annotations

from thoonk_jobs import Broker

with Broker() as broker:
    queue = broker.queue("kitchen")

    with queue.subscribe() as events:
        queue.publish({"dish": "soup"})
        claim = queue.get()
        claim.set_progress(1, 2, "onions are cut")
        claim.emit("tasted", {"salt": "more"})
        claim.finish("served")

        while event := events.get(timeout=0):
            print(f"{event.name:14} {event.data.get('row') or event.data}")

    with queue.subscribe("TASK_DONE", since=0) as events:
        print("done, before we listened:", events.get().job_id == claim.id)

    queue.delete()
