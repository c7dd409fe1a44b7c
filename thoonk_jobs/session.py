"""What a broker has in one process, made on first use and made anew in a forked child."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

from thoonk_jobs import calls
from thoonk_jobs.callbacks import CallbackThread, MakeJob
from thoonk_jobs.config import Config
from thoonk_jobs.drive import Wire
from thoonk_jobs.ids import new_id
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.lease import Leases
from thoonk_jobs.notices import Notices

T = TypeVar("T")


class Session:
    """Connections, subscription, callbacks and held claims of one process."""

    def __init__(self, config: Config, make_job: MakeJob, clock: Callable[[], int | None]) -> None:
        self.process = new_id()[4:]
        self.worker = f"{self.process}@{socket.gethostname()}:{os.getpid()}"
        self.wire = Wire(config, self.process)
        self.wire.elapsed.passed = clock
        self.callbacks = CallbackThread(self.wire, make_job, self.wanted)
        self.leases = Leases(self.wire)
        self.notices = Notices(self.wire, self)
        self._entered: set[str] = set()
        self._lanes = threading.local()
        self._lane_numbers = count(1)

    def lane(self) -> str:
        """The name under which this thread claims: one claim call at a time."""
        if not hasattr(self._lanes, "name"):
            self._lanes.name = f"{self.process}.{next(self._lane_numbers)}"
        return str(self._lanes.name)

    def enter(self, keys: QueueKeys, *, again: bool = False) -> None:
        """Enters a queue in the list of queues, once, or again."""
        if again or keys.base not in self._entered:
            for command in calls.enter(keys):
                self.wire.run(command)
            self._entered.add(keys.base)

    def leave(self, keys: QueueKeys) -> None:
        """The queue was deleted."""
        self._entered.discard(keys.base)

    def listen(self, keys: QueueKeys, id: str | None, timeout: float | None) -> Any:
        """For flows: a step that answers a bell."""
        return self.notices.listen(keys, id, timeout)

    def hears(self, keys: QueueKeys) -> bool:
        """For flows: whether bells of a queue can ring at present."""
        return self.notices.hears(keys)

    def wanted(self, keys: QueueKeys, id: str) -> bool:
        """Whether anything in this process still waits for a job."""
        return self.notices.waits_for(keys, id) or self.callbacks.expects(keys, id)

    def job_news(self, keys: QueueKeys, stalls: dict[str, float]) -> None:
        """Of the subscription: something happened to these jobs; those that were stalled, since when."""
        self.callbacks.news(keys, stalls)

    def claim_lost(self, keys: QueueKeys, id: str, token: int) -> None:
        """Of the subscription: this process lost a claim."""
        self.leases.lost(keys, id, token)

    def may_have_missed(self, keys: QueueKeys) -> None:
        """Of the subscription: it was made anew."""
        self.callbacks.look_at_all(keys)
        self.leases.look_at_all(keys)

    def close(self) -> None:
        """Ends all that waits, gives back what is held, then ends the rest."""
        self.wire.closed.set()
        for part in (self.notices, self.callbacks, self.leases):
            part.close()
        self.leases.give_back()
        self.wire.close()


def verb_result(refusals: list[Any]) -> None:
    """Raises the refusal of a call about one job, if there is one."""
    if refusals[0] is not None:
        raise refusals[0]
