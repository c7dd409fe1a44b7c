"""A queue of the blocking client: publishing, working by hand, operating."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from thoonk_jobs import calls, flows, limits
from thoonk_jobs.blocking import BlockingSession
from thoonk_jobs.claim import Claim, Job
from thoonk_jobs.flows import Flow
from thoonk_jobs.job import Page
from thoonk_jobs.limits import UNCHANGED, KeyStatus, Limited, Unchanged
from thoonk_jobs.machine import State
from thoonk_jobs.operating import Operating
from thoonk_jobs.publication import Callback, Unique
from thoonk_jobs.publishing import Publishing
from thoonk_jobs.request import Call
from thoonk_jobs.subscription import Handler, Subscription
from thoonk_jobs.working import Working

T = TypeVar("T")


class Queue(Publishing, Working, Operating):
    """A named queue of jobs; made by `Broker.queue`."""

    job_class = Job
    claim_class = Claim

    def do(self, flow: Flow[T]) -> T:
        """Runs a conversation with the server."""
        return cast(BlockingSession, self.session).follow(flow)

    def _run(self, call: Call[T]) -> T:
        return cast(BlockingSession, self.session).run(call)

    # Publishing.

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
        unique: str | Unique | None = None,
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
        key           what `limit` and `block` count it by.
        unique        a name that one live job has at a time; see `Unique` for what else can become of a second one.
        keep          seconds the finished job stays readable.
        on_finish     called with the job, once, when it is finished; on_stall(job) each time it is stalled;
                      on_progress(job, progress) for every report. On one thread of this library.

        Raises PayloadError or InvalidArgument before anything is sent, JobExists for an id with other data, NotUnique
        (`.job_id`), LimitReached, KeyBlocked, and BrokerUnavailable (`.job_ids`) when there was no answer: publishing
        with that id again makes no second job.
        """
        options = {name: value for name, value in locals().items() if name not in ("self", "data")}
        return cast(Job, self.do(self._publish(data, options)))

    def publish_many(self, jobs: Iterable[Any], **common: Any) -> list[Job]:
        """Hand over many jobs, as data or as `Publish(data, **options)`; common: options for all.

        All are checked before the first is sent. Raises PublishFailed (`.jobs`, `.errors` by position) when some
        were refused; the rest is published then.
        """
        return self.do(self._publish_many(jobs, common))

    # Working by hand.

    def get(self, timeout: Any = None, *, lease: Any = 30.0, renew: bool = True) -> Claim | None:
        """Take the most urgent available job, or None if there is none in time.

        timeout  seconds to wait; 0 looks once, None waits for ever.
        lease    seconds until the job is offered to others; renew=True renews it in the background until the claim
                 ends, is lost, or the broker closes.

        Raises BrokerUnavailable if the server cannot be reached: a job that was taken all the same returns to the
        queue when its lease ends. Delivery is at least once, so a handler may see the same job twice.
        """
        return cast("Claim | None", self.do(self._get(timeout, lease, renew)))

    def get_many(self, n: int, timeout: Any = None, *, lease: Any = 30.0, renew: bool = True) -> list[Claim]:
        """Wait for the first job as `get` does, then take what is there, up to n."""
        return self.do(self._get_many(n, timeout, lease, renew))

    def _held(self, job: Job | str, verb: str) -> Claim:
        return cast(Claim, self.do(self._claim(job, verb)))

    def finish(self, job: Job | str, result: Any = None) -> None:
        """`Claim.finish` for a job or id that this Queue object claimed."""
        self._held(job, "finish").finish(result)

    def fail(self, job: Job | str, error: Any, *, final: bool = False) -> None:
        """`Claim.fail` for a job or id that this Queue object claimed."""
        self._held(job, "fail").fail(error, final=final)

    def cancel(self, job: Job | str, reason: str | None = None, delay: Any = None) -> None:
        """`Claim.cancel` for a job or id that this Queue object claimed."""
        self._held(job, "cancel").cancel(reason, delay)

    def stall(self, job: Job | str, reason: str | None = None) -> None:
        """Set a job aside: as its claimant where this Queue object claimed it, else as an operator, if it is live."""
        id = self.id_of(job)
        if claim := self.claim_of(id):
            claim.stall(reason)
        else:
            self.do(self._stall(id, reason))

    def renew(self, job: Job | str, lease: Any = None) -> None:
        """`Claim.renew` for a job or id that this Queue object claimed."""
        self._held(job, "renew").renew(lease)

    def set_progress(
        self, job: Job | str, value: float, total: float | None = None, message: str | None = None
    ) -> None:  # fmt: skip
        """`Claim.set_progress` for a job or id that this Queue object claimed."""
        self._held(job, "set_progress").set_progress(value, total, message)

    def log(self, job: Job | str, text: str) -> None:
        """`Claim.log` for a job or id that this Queue object claimed."""
        self._held(job, "log").log(text)

    def emit(self, job: Job | str, name: str, data: Any = None) -> None:
        """`Claim.emit` for a job or id that this Queue object claimed."""
        self._held(job, "emit").emit(name, data)

    # Operating: repeating a verb whose effect already holds returns quietly.

    def retry(self, id: str) -> None:
        """Let a stalled job run again: failures, cancels and lost claims start anew."""
        self.do(self._operate("retry", id))

    def rerun(self, id: str) -> None:
        """Run a finished job once more, as a new run; its data must still be kept."""
        self.do(self._operate("rerun", id))

    def retract(self, id: str) -> None:
        """Withdraw a live job: it finishes as retracted; a claimant is told and its result refused."""
        self.do(self._operate("retract", id))

    def retry_all(self) -> int:
        """Retry every stalled job, a bounded part at a time; how many it was."""
        return self.do(flows.operate_on_all(self.keys, "retry", State.STALLED))

    def retract_all(self, state: State | str) -> int:
        """Withdraw every job of a live state, a bounded part at a time; how many it was."""
        return self.do(self._retract_all(state))

    # Looking.

    def job(self, id: str) -> Job:
        """The job as it is now. Raises JobNotFound when nothing of it is kept."""
        return cast(Job, self.do(self._job(id)))

    def jobs(self, state: State | str | None = None, *, limit: int = 100, cursor: str | None = None) -> Page[Job]:
        """Some jobs, of one state or of all: each state in its own order, as the most urgent first.

        cursor  of the page before; what was published or moved meanwhile may be missing or come twice.
        """
        return self.do(self._jobs(state, limit, cursor))

    def ids(self) -> list[str]:
        """The ids of all live jobs, in the order of `jobs`."""
        return self.do(flows.live_ids(self.keys))

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        return self._run(calls.counts(self.keys))

    def key(self, name: str) -> KeyStatus:
        """What there is of a key: its running and waiting jobs, its limits, its failures, whether it is blocked."""
        return self._run(calls.key(self.keys, name))

    def blocked_keys(self) -> list[str]:
        """The keys that are blocked now, the one that is free again first ahead."""
        return self._run(calls.blocked(self.keys))

    def holder(self, unique: str) -> Job | None:
        """The live job that has this unique name; None: the name is free."""
        return cast("Job | None", self.do(self._holder(unique)))

    # Events.

    def subscribe(self, *names: str, since: int | None = None) -> Subscription:
        """Hear the events of these names, or all: the names of the state machine, and what claimants emit.

        since  number of an event after which to begin, as far as the log reaches (`keep_events`).

        It listens when this returns. Raises EventsLost where events after `since` are not kept any more, or it is
        above the present number: the data was lost.
        """
        return Subscription(self, names, since)

    def on(self, name: str | None, handler: Callback) -> Callable[[], None]:
        """Call handler(event) for every event of this name (None: of all) from now on; answers what ends that.

        Handlers run as other callbacks do: one at a time, in order, on one thread of this library.
        """
        return Handler(self, name, handler).stop

    # Settings.

    def settings(self) -> dict[str, Any]:
        """What `configure` can set, with the values in force."""
        return self.do(self._settings())

    def pause(self) -> None:
        """Hand out no more jobs, in any process, until `resume`."""
        self.do(self._pause(on=True))

    def resume(self) -> None:
        """Hand out jobs again."""
        self.do(self._pause(on=False))

    def configure(
        self,
        *,
        max_lost: float | None = None,
        max_cancels: float | None = None,
        max_attempts: float | None = None,
        backoff: Any = None,
        keep: Any = None,
        keep_last: float | None = None,
        keep_stalled: float | None = None,
        keep_events: float | None = None,
        expires_in: Any = None,
        priority: float | str | None = None,
        max_payload: float | None = None,
    ) -> None:
        """Set what holds for the whole queue, in every process, from the next call on; what is left out stays.

        max_lost, max_cancels            the lost claim or cancel that stalls a job.
        keep_last, keep_stalled          how many finished jobs stay readable, how many stalled ones stay.
        keep_events                      how many of the last events the log of the queue holds at least.
        the rest                         usual values of `publish`; max_payload in bytes.
        """
        self.do(self._configure({name: value for name, value in locals().items() if name != "self"}))

    def limit(
        self,
        key: Limited = None,
        *,
        running: float | Unchanged | None = UNCHANGED,
        pending: float | Unchanged | None = UNCHANGED,
        when_full: str | Unchanged | None = UNCHANGED,
        block_after: Any = UNCHANGED,
    ) -> None:
        """Limit the whole queue (None), each key (`EACH_KEY`) or one key, in every process, from now on.

        running      jobs claimed at once. Those that have to wait do so in the order in which they would run.
        pending      jobs that are neither finished nor stalled; a publish beyond it raises LimitReached.
        when_full    "wait" or "reject" (LimitReached): what a publish does while `running` is reached. Usual: wait.
        block_after  (failures, seconds, block_seconds): so many failed attempts in that time block the key.

        What is left out stays as it is; `inf` lifts a limit, for one key whatever EACH_KEY says; None takes back what
        was set, so that EACH_KEY holds for the key. A lowered limit interrupts nobody: it parks those that did not
        start yet. A raised one lets go who waits, the most urgent first.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "key")}
        self.do(self._limit(key, given))

    def block(self, key: str, seconds: Any, reason: str) -> None:
        """Refuse to publish with a key for a while, with KeyBlocked; its jobs that are there are not touched."""
        self.do(self._block(key, seconds, reason))

    def unblock(self, key: str) -> None:
        """Let a key be published with again, and forget its failures; quiet where it is not blocked."""
        self._run(calls.unblock(self.keys, limits.key_text(key)))

    def delete(self) -> None:
        """Withdraw every live job, then remove all keys of the queue."""
        self.do(self._delete())
