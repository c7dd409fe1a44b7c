"""Many changes, little work: the newest of them, once it is quiet; or one run at a time, with one more behind it.

`unique` is a name that one live job has; `on_conflict` says what becomes of a publish while another job has it.
"""

from __future__ import annotations

from thoonk_jobs import Broker, NotUnique, Unique

with Broker() as broker:
    queue = broker.queue("search index")

    # Once it is quiet: each change puts the job off, and gives it the newer data.
    last = Unique("page 7", on_conflict="replace")
    for text in ("H", "He", "Hello"):
        queue.publish({"page": 7, "text": text}, unique=last, delay=0.2)
    claim = queue.get(timeout=10)
    assert claim
    print("index", claim.data["text"])
    try:
        queue.publish({"page": 7, "text": "Hello, you"}, unique="page 7")
    except NotUnique as error:
        print("refused while it runs:", error.job_id == claim.id == queue.holder("page 7").id)
    claim.finish()

    # The latest only: the name is free as soon as the job is claimed, so the next one gathers what comes meanwhile.
    latest = Unique("all pages", on_conflict="replace", until="claimed")
    queue.limit("all pages", running=1)
    queue.publish("version 1", unique=latest, key="all pages")
    running = queue.get(timeout=10)
    assert running
    for version in (2, 3, 4):
        queue.publish(f"version {version}", unique=latest, key="all pages")
    print("index", running.data, "while", queue.key("all pages").pending - 1, "waits")
    running.finish()
    claim = queue.get(timeout=10)
    assert claim
    print("index", claim.data)
    claim.finish()
    queue.delete()
