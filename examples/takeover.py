"""A worker dies with a job in its hands; another one, which waits, is given it when the lease is over."""

from __future__ import annotations

import os
import signal

from thoonk_jobs import Broker

with Broker() as broker:
    queue = broker.queue("fragile")
    queue.publish("carry this")
    pid = os.fork()  # a broker may be used on both sides of a fork
    if not pid:
        held = queue.get(lease=0.5)
        os.kill(os.getpid(), signal.SIGKILL)  # no chance to give it back

    os.waitpid(pid, 0)
    claim = queue.get(timeout=10)  # nothing polls: the alarm moves the job, and this process is told
    assert claim
    print(f"{claim.data}: claim {claim.claims}, {claim.lost} lost")
    claim.finish()
