"""What all sides of a queue share; what talks to the server is a flow, for a blocking or an asyncio driver."""

from __future__ import annotations

from typing import Any, Protocol

from thoonk_jobs import arguments, calls, settings
from thoonk_jobs.claiming import ClaimCore, JobCore, not_found
from thoonk_jobs.config import Config
from thoonk_jobs.errors import InvalidArgument, PayloadError
from thoonk_jobs.flows import Flow
from thoonk_jobs.job import Stored
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.machine import State
from thoonk_jobs.publication import DEFAULT_MAX_PAYLOAD
from thoonk_jobs.session import Session


class HasSession(Protocol):
    """A broker."""

    config: Config

    @property
    def session(self) -> Any: ...


class QueueBase:
    """A queue's name, its keys, and the connections of this process."""

    job_class: type[JobCore]
    claim_class: type[ClaimCore]

    def __init__(self, broker: HasSession, name: str) -> None:
        self.name = arguments.text(name, "queue name")
        self.keys = QueueKeys.of(broker.config.namespace, name)
        self._broker = broker
        self._claims: dict[str, ClaimCore] = {}
        self._max_payload: float = DEFAULT_MAX_PAYLOAD

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def session(self) -> Session:
        """The connections of this process."""
        session: Session = self._broker.session
        return session

    @property
    def patience(self) -> float:
        """Seconds that a subscription may take to be confirmed."""
        return self._broker.config.patience

    def make_job(self, id: str, stored: Stored | None) -> Any:
        """A snapshot, of the kind that this queue hands out."""
        return self.job_class(self, id, stored)

    def _job(self, id: str) -> Flow[Any]:
        [stored] = yield calls.read(self.keys, [arguments.text(id, "id")])
        if stored is None:
            raise not_found(self.name, id, "read")
        return self.make_job(id, stored)

    def state_of(self, id: str) -> Flow[State]:
        """The state of a job; ABSENT when nothing of it is kept."""
        [stored] = yield calls.read(self.keys, [id])
        state: State = self.make_job(id, stored).state
        return state

    def _settings(self) -> Flow[dict[str, Any]]:
        found: dict[str, str] = yield calls.configure(self.keys, {})
        return settings.shown(found)

    def check_size(self, encoded: bytes, name: str) -> Flow[None]:
        """Refuses what is over the queue's max_payload; asks the server only for what is over the last known one."""
        if len(encoded) > self._max_payload or (len(encoded) > DEFAULT_MAX_PAYLOAD):
            self._max_payload = (yield from self._settings())["max_payload"]
        if len(encoded) > self._max_payload:
            raise PayloadError(
                f"cannot send {name}: {len(encoded)} bytes are over the max_payload of {self._max_payload:.0f}; "
                "send a reference to it, or raise max_payload with configure")  # fmt: skip

    def id_of(self, job: JobCore | str) -> str:
        """The id of a job of this queue."""
        if not isinstance(job, JobCore):
            return arguments.text(job, "id")
        if job.queue != self.name:
            raise InvalidArgument(f"job {job.id!r} is of queue {job.queue!r}, not of {self.name!r}; ask that queue")
        return job.id

    def claim_of(self, id: str) -> Any:
        """The claim of a job that this object took in this process, or None; a parent process's is the parent's."""
        claim = self._claims.get(id)
        return claim if claim and claim.process == self.session.process else None

    def release_claim(self, claim: ClaimCore) -> None:
        """The claim ended or was lost."""
        if self._claims.get(claim.id) is claim:
            del self._claims[claim.id]
