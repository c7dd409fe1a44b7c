"""A queue: publishing to it, working on it, operating it."""

from __future__ import annotations

from thoonk_jobs.operating import Operating
from thoonk_jobs.publishing import Publishing
from thoonk_jobs.working import Working


class Queue(Publishing, Working, Operating):
    """One queue of a broker. Made by `Broker.queue`; costs nothing until it is used."""
