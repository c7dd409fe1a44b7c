"""What all sides of a queue share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thoonk_jobs import arguments, calls, settings
from thoonk_jobs.claim import Claim, Job, not_found
from thoonk_jobs.errors import InvalidArgument, PayloadError
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.machine import State
from thoonk_jobs.publication import DEFAULT_MAX_PAYLOAD
from thoonk_jobs.session import Session

if TYPE_CHECKING:
    from thoonk_jobs.client import Broker


class QueueBase:
    """A queue's name, its keys, and the connections of this process."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.name = arguments.text(name, "queue name")
        self.keys = QueueKeys.of(broker.config.namespace, name)
        self._broker = broker
        self._claims: dict[str, Claim] = {}
        self._max_payload: float = DEFAULT_MAX_PAYLOAD

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def session(self) -> Session:
        """The connections of this process."""
        return self._broker.session

    def job(self, id: str) -> Job:
        """The job as it is now. Raises JobNotFound when nothing of it is kept."""
        [stored] = self.session.wire.run(calls.read(self.keys, [arguments.text(id, "id")]))
        if stored is None:
            raise not_found(self.name, id, "read")
        return Job(self, id, stored)

    def state_of(self, id: str) -> State:
        """The state of a job; ABSENT when nothing of it is kept."""
        [stored] = self.session.wire.run(calls.read(self.keys, [id]))
        return Job(self, id, stored).state

    def settings(self) -> dict[str, Any]:
        """What `configure` can set, with the values in force."""
        return settings.shown(self.session.wire.run(calls.configure(self.keys, {})))

    def check_size(self, encoded: bytes, name: str) -> None:
        """Refuses what is over the queue's max_payload; asks the server only for what is over the last known one."""
        if len(encoded) > self._max_payload or (len(encoded) > DEFAULT_MAX_PAYLOAD):
            self._max_payload = self.settings()["max_payload"]
        if len(encoded) > self._max_payload:
            raise PayloadError(
                f"cannot send {name}: {len(encoded)} bytes are over the max_payload of {self._max_payload:.0f}; "
                "send a reference to it, or raise max_payload with configure")  # fmt: skip

    def id_of(self, job: Job | str) -> str:
        """The id of a job of this queue."""
        if not isinstance(job, Job):
            return arguments.text(job, "id")
        if job.queue != self.name:
            raise InvalidArgument(f"job {job.id!r} is of queue {job.queue!r}, not of {self.name!r}; ask that queue")
        return job.id

    def claim_of(self, id: str) -> Claim | None:
        """The claim of a job that this object took in this process; those of a parent process are the parent's."""
        claim = self._claims.get(id)
        return claim if claim and claim.process == self.session.process else None

    def release_claim(self, claim: Claim) -> None:
        """The claim ended or was lost."""
        if self._claims.get(claim.id) is claim:
            del self._claims[claim.id]
