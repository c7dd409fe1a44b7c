"""An event-driven job broker on Redis and Valkey; the public names, nothing else."""

from thoonk_jobs.aio import AsyncBroker
from thoonk_jobs.aio_claim import AsyncClaim, AsyncJob
from thoonk_jobs.aio_queue import AsyncQueue
from thoonk_jobs.aio_subscription import AsyncSubscription
from thoonk_jobs.claim import Claim, Job
from thoonk_jobs.client import Broker
from thoonk_jobs.embedded import EmbeddedServer
from thoonk_jobs.errors import (
    BrokerClosed,
    BrokerUnavailable,
    ConfigError,
    EventsLost,
    IncompatibleServer,
    InvalidArgument,
    JobExists,
    JobFailed,
    JobNotFound,
    KeyBlocked,
    LimitReached,
    NotUnique,
    PayloadError,
    PublishFailed,
    StaleClaim,
    ThoonkError,
    TransitionRefused,
)
from thoonk_jobs.event import Event
from thoonk_jobs.ids import new_id
from thoonk_jobs.job import JobError, Page, Progress
from thoonk_jobs.limits import EACH_KEY, Block, KeyStatus, Limit
from thoonk_jobs.machine import EventName, Outcome, State
from thoonk_jobs.publication import Publish, Unique
from thoonk_jobs.queue import Queue
from thoonk_jobs.subscription import Subscription

__all__ = [
    "EACH_KEY",
    "AsyncBroker",
    "AsyncClaim",
    "AsyncJob",
    "AsyncQueue",
    "AsyncSubscription",
    "Block",
    "Broker",
    "BrokerClosed",
    "BrokerUnavailable",
    "Claim",
    "ConfigError",
    "EmbeddedServer",
    "Event",
    "EventName",
    "EventsLost",
    "IncompatibleServer",
    "InvalidArgument",
    "Job",
    "JobError",
    "JobExists",
    "JobFailed",
    "JobNotFound",
    "KeyBlocked",
    "KeyStatus",
    "Limit",
    "LimitReached",
    "NotUnique",
    "Outcome",
    "Page",
    "PayloadError",
    "Progress",
    "Publish",
    "PublishFailed",
    "Queue",
    "StaleClaim",
    "State",
    "Subscription",
    "ThoonkError",
    "TransitionRefused",
    "Unique",
    "new_id",
]
