"""A queue from the publisher's side, as flows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from thoonk_jobs import calls, flows, request
from thoonk_jobs.base import QueueBase
from thoonk_jobs.errors import BrokerUnavailable, PublishFailed, ThoonkError
from thoonk_jobs.expected import Expected
from thoonk_jobs.flows import Flow
from thoonk_jobs.job import Stored
from thoonk_jobs.publication import Publication, Publish, prepare


class Publishing(QueueBase):
    """Handing over work."""

    coroutines = False
    """Whether callbacks may be coroutine functions."""

    def _publish(self, data: Any, options: dict[str, Any]) -> Flow[Any]:
        prepared = prepare(data, self.session.process, options, coroutines=self.coroutines)
        [answer] = yield from self._publish_all([prepared])
        if isinstance(answer, ThoonkError):
            raise answer
        return answer

    def _publish_many(self, jobs: Iterable[Any], common: dict[str, Any]) -> Flow[list[Any]]:
        home, prepared = self.session.process, []
        for job in jobs:
            own = job if isinstance(job, Publish) else Publish(job)
            prepared.append(prepare(own.data, home, {**common, **own.options}, coroutines=self.coroutines))
        answers = yield from self._publish_all(prepared)
        errors = {at: answer for at, answer in enumerate(answers) if isinstance(answer, ThoonkError)}
        if errors:
            first = next(iter(errors.values()))
            told = f"{len(errors)} of {len(answers)} jobs were refused, the first with: {first}"
            published = [None if isinstance(job, ThoonkError) else job for job in answers]
            raise PublishFailed(told, jobs=published, errors=errors)
        return answers

    def _publish_all(self, prepared: list[Publication]) -> Flow[list[Any]]:
        for publication in prepared:
            yield from self.check_size(publication.body, "data")
        expected: dict[int, Expected] = {}
        try:
            yield from self.session.enter(self.keys)
            expected |= yield from self._expect(prepared)
            return (yield from self._send(prepared, expected))
        except BrokerUnavailable as error:
            error.job_ids = [publication.id for publication in prepared]
            raise
        finally:
            for waiting in expected.values():  # refused, or never sent
                self.session.callbacks.forget(waiting)

    def _send(self, prepared: list[Publication], expected: dict[int, Expected]) -> Flow[list[Any]]:
        answers: list[Any] = []
        for part in flows.in_parts(prepared, lambda publication: len(publication.body)):
            published: request.Published = yield calls.publish(self.keys, part)
            if published.new_queue:  # new, or deleted or flushed since this process entered it
                yield from self.session.enter(self.keys, again=True)
            if published.more:
                yield from flows.settle(self.keys)
            for answer in published.answers:
                waiting = expected.get(len(answers))
                if isinstance(answer, ThoonkError):
                    answers.append(answer)
                    continue
                answers.append((yield from self._published(*answer)))
                if waiting:
                    self.session.callbacks.published(waiting, *answer)
                    del expected[len(answers) - 1]
        return answers

    def _expect(self, prepared: list[Publication]) -> Flow[dict[int, Expected]]:
        """Registers callbacks, by position, behind a confirmed subscription: the end may come before the answer."""
        if any(publication.callbacks for publication in prepared):
            yield self.session.confirmed(self.keys, self.patience)
        expected = {
            at: self.session.callbacks.expect(self.keys, publication.id, publication.callbacks)
            for at, publication in enumerate(prepared)
            if publication.callbacks
        }
        if expected:
            self.session.want(self.keys)  # it may just have been left, as nobody waited yet
        return expected

    def _published(self, id: str, stored: Stored) -> Flow[Any]:
        """The job as it is: one that was published before may have more to read than the answer tells."""
        job = self.make_job(id, stored)
        if not job.claims and stored.data is not None:
            return job
        [whole] = yield calls.read(self.keys, [id])
        return self.make_job(id, whole) if whole else job
