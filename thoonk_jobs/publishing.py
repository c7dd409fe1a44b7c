"""A queue from the publisher's side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from thoonk_jobs import calls, flows
from thoonk_jobs.base import QueueBase
from thoonk_jobs.claim import Job
from thoonk_jobs.errors import BrokerUnavailable, PublishFailed, ThoonkError
from thoonk_jobs.job import Stored
from thoonk_jobs.publication import Callback, Publication, Publish, prepare

if TYPE_CHECKING:
    from thoonk_jobs.callbacks import Expected


class Publishing(QueueBase):
    """Handing over work."""

    def publish(
        self,
        data: Any,
        *,
        id: str | None = None,
        priority: float | str | bool | None = None,
        delay: Any = None,
        run_at: Any = None,
        expires_in: Any = None,
        max_attempts: float | None = None,
        backoff: Any = None,
        key: str | None = None,
        keep: Any = None,
        on_finish: Callback | None = None,
        on_stall: Callback | None = None,
        on_progress: Callback | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Job:
        """Hand over one job; it is stored when this returns.

        data          JSON (dict, list, text, number of 64 bits, bool, None) or bytes; comes back equal.
        id            1-200 characters; publishing it again with equal data gives the same job. Usual: a new one.
        priority      a number, higher first; low, normal, medium, high, critical; front.
        delay/run_at  earliest start: seconds from now, or an aware datetime.
        expires_in    seconds; neither finished nor stalled by then, it finishes as expired.
        max_attempts  failed attempts allowed; the last one stalls the job. backoff: seconds between them, or a list.
        keep          seconds the finished job stays readable.
        on_finish     called with the job, once, when it is finished; on_stall(job) each time it is stalled;
                      on_progress(job, progress) for every report. On one thread of this library.

        Raises PayloadError or InvalidArgument before anything is sent, JobExists for an id with other data, and
        BrokerUnavailable (`.job_ids`) when there was no answer: publishing with that id again makes no second job.
        """
        options = {
            "id": id, "priority": priority, "delay": delay, "run_at": run_at, "expires_in": expires_in,
            "max_attempts": max_attempts, "backoff": backoff, "key": key, "keep": keep, "on_finish": on_finish,
            "on_stall": on_stall, "on_progress": on_progress, "headers": headers,
        }  # fmt: skip
        [answer] = self._publish([prepare(data, self.session.process, options)])
        if isinstance(answer, ThoonkError):
            raise answer
        return answer

    def publish_many(self, jobs: Iterable[Any], **common: Any) -> list[Job]:
        """Hand over many jobs, as data or as `Publish(data, **options)`; common: options for all.

        All are checked before the first is sent. Raises PublishFailed (`.jobs`, `.errors` by position) when some
        were refused; the rest is published then.
        """
        home, prepared = self.session.process, []
        for job in jobs:
            own = job if isinstance(job, Publish) else Publish(job)
            prepared.append(prepare(own.data, home, {**common, **own.options}))
        answers = self._publish(prepared)
        errors = {at: answer for at, answer in enumerate(answers) if isinstance(answer, ThoonkError)}
        if errors:
            first = next(iter(errors.values()))
            told = f"{len(errors)} of {len(answers)} jobs were refused, the first with: {first}"
            published = [job if isinstance(job, Job) else None for job in answers]
            raise PublishFailed(told, jobs=published, errors=errors)
        return [job for job in answers if isinstance(job, Job)]

    def _publish(self, prepared: list[Publication]) -> list[Job | ThoonkError]:
        for publication in prepared:
            self.check_size(publication.body, "data")
        session = self.session
        session.enter(self.keys)
        expected = self._expect(prepared)
        answers: list[Job | ThoonkError] = []
        try:
            for part in flows.in_parts(prepared, lambda publication: len(publication.body)):
                published = session.wire.run(calls.publish(self.keys, part))
                if published.new_queue:  # new, or deleted or flushed since this process entered it
                    session.enter(self.keys, again=True)
                if published.more:
                    session.wire.follow(flows.settle(self.keys))
                for answer in published.answers:
                    waiting = expected.get(len(answers))
                    if isinstance(answer, ThoonkError):
                        answers.append(answer)
                        continue
                    answers.append(self._published(*answer))
                    if waiting:
                        session.callbacks.published(waiting, *answer)
                        del expected[len(answers) - 1]
        except BrokerUnavailable as error:
            error.job_ids = [publication.id for publication in prepared]
            raise
        finally:
            for waiting in expected.values():  # refused, or never sent
                session.callbacks.forget(waiting)
        return answers

    def _expect(self, prepared: list[Publication]) -> dict[int, Expected]:
        """Registers callbacks, by position, behind a confirmed subscription: the end may come before the answer."""
        if any(publication.callbacks for publication in prepared):
            self.session.notices.subscribe(self.keys, patience=max(5.0, self._broker.config.retry_for))
        return {
            at: self.session.callbacks.expect(self.keys, publication.id, publication.callbacks)
            for at, publication in enumerate(prepared)
            if publication.callbacks
        }

    def _published(self, id: str, stored: Stored) -> Job:
        """The job as it is: one that was published before may have more to read than the answer tells."""
        job = Job(self, id, stored)
        if not job.claims:
            return job
        [whole] = self.session.wire.run(calls.read(self.keys, [id]))
        return Job(self, id, whole) if whole else job
