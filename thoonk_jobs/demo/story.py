"""The demo from its first job to its last check, in the process of the publisher."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from thoonk_jobs import Job, Progress, Queue
from thoonk_jobs.demo import analysis, checks
from thoonk_jobs.demo.crew import Crew, DemoFailed, heed_signals
from thoonk_jobs.demo.show import Show
from thoonk_jobs.demo.tally import Tally
from thoonk_jobs.demo.worker import LEASE

PATIENCE = 30.0
BROKEN_LINE = "\ndef broken(:\n"
NO_NAME = "?"


class Story:
    """Publishes, listens, mends what fails, and remembers what happened.

    planted  the folder for the files that are made for the show.
    """

    def __init__(self, queue: Queue, planted: Path, show: Show) -> None:
        self.tally = Tally()
        self._queue = queue
        self._folder = planted
        self._show = show
        self._news: SimpleQueue[tuple[str, Job, str]] = SimpleQueue()
        self._planted: dict[str, Job] = {}
        self._again: Job | None = None
        self._killed = ""
        self.seconds = 0.0

    def publish(self, files: list[Path]) -> None:
        """Publishes all files, then what the show needs, while nothing is handed out."""
        begin = time.monotonic()
        self._queue.configure(keep_last=float("inf"))  # all of them are counted at the end
        self._queue.pause()
        jobs = self._queue.publish_many([{"path": str(path)} for path in files], on_finish=self._heard)
        self.tally.files = {job.id for job in jobs}
        self._plant("broken.py", priority="high", strict=True).write_text(_source() + BROKEN_LINE)
        self._plant("given-back.py", priority="high", give_back=True)
        self._plant("orphan.py", priority="low", hold=True)
        twice = self._plant("twice.py")
        self._again = self._queue.publish({"path": str(twice)}, id=self._planted["twice.py"].id)
        self._plant("urgent.py", priority="critical")
        took = time.monotonic() - begin
        self._show.say(
            f"published {len(files)} files and {len(self._planted)} planted jobs in {took:.2f} s; urgent.py last"
        )
        self._show.expect(len(files) + len(self._planted))

    def _plant(self, name: str, priority: str | None = None, **asked: Any) -> Path:
        path = self._folder / name
        path.write_text(_source())
        self._planted[name] = self._queue.publish(
            {"path": str(path), **asked}, priority=priority, on_finish=self._heard,
            on_stall=self._stalled, on_progress=self._progress,
        )  # fmt: skip
        return path

    def _heard(self, job: Job) -> None:
        self._news.put(("finish", job, ""))

    def _stalled(self, job: Job) -> None:
        self._news.put(("stall", job, ""))

    def _progress(self, job: Job, progress: Progress) -> None:
        self._news.put(("progress", job, progress.message or ""))

    def follow(self, crew: Crew) -> None:
        """Lets the workers begin, and returns when every result is here."""
        names = {job.id: name for name, job in self._planted.items()}
        expected = len(self.tally.files) + len(names)
        begin = time.monotonic()
        self._queue.resume()
        while len(self.tally.arrived) < expected:
            kind, job, message = self._next(crew, expected)
            name = names.get(job.id, NO_NAME)
            self._take(kind, job, name, message)
            if kind == "progress" and name == "orphan.py":
                self._kill(crew, job)
        self.seconds = time.monotonic() - begin

    def hear_the_rest(self) -> None:
        """What comes after the last expected result; there should be nothing."""
        while not self._news.empty():
            kind, job, message = self._news.get()
            self._take(kind, job, NO_NAME, message)

    def _next(self, crew: Crew, expected: int) -> tuple[str, Job, str]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            heed_signals()
            try:
                return self._news.get(timeout=0.5)
            except Empty:
                crew.check()
        missing = expected - len(self.tally.arrived)
        raise DemoFailed(f"{missing} of {expected} results did not arrive, and nothing was heard for {PATIENCE:g} s")

    def _take(self, kind: str, job: Job, name: str, message: str) -> None:
        if kind == "stall":
            self._mend(job, name)
        elif kind == "progress":
            self._show.say(f"{name}: {message}")
        else:
            self.tally.add(job)
            self._show.arrived(len(self.tally.arrived))
            if name != NO_NAME:
                self._show.say(f"{name}: {self._said(name, job)}")

    def _mend(self, job: Job, name: str) -> None:
        self.tally.stalls[job.id] += 1
        self._show.say(f"{name}: failed and is stalled ({job.error.message if job.error else job.reason})")
        shutil.copyfile(analysis.__file__, job.data["path"])
        self._queue.retry(job.id)
        self._show.say(f"{name}: mended, and retried by hand")

    def _kill(self, crew: Crew, job: Job) -> None:
        """Its holder ends without a word, as a process does that the system kills."""
        self._killed = crew.kill(int(str(job.refresh().worker).rpartition(":")[2]))
        self._show.say(f"orphan.py: {self._killed} is killed with SIGKILL; its lease of {LEASE:g} s runs out")

    def _said(self, name: str, job: Job) -> str:
        by = job.result["worker"] if job.result else "nobody"
        return {
            "broken.py": f"finished by {by} after the retry, claim {job.claims}",
            "given-back.py": f"finished by {by}, claim {job.claims}, after {job.cancels} cancel",
            "orphan.py": f"taken over by {by}, claim {job.claims}",
            "twice.py": f"published twice with one id, run {job.claims} time",
            "urgent.py": f"published last, it is result {len(self.tally.arrived)}",
        }[name]

    def checks(self) -> list[checks.Check]:
        """Whether all that the show says really happened."""
        now = {name: self._queue.job(job.id) for name, job in self._planted.items()}
        published = {*self.tally.files, *(job.id for job in now.values())}
        urgent = now["urgent.py"]
        return [
            checks.every_result_once(published, self.tally.arrived),
            checks.all_finished(self._queue.counts(), len(published)),
            checks.mended(now["broken.py"], self.tally.stalls[now["broken.py"].id]),
            checks.given_back(now["given-back.py"]),
            checks.taken_over(now["orphan.py"], self._killed),
            checks.overtook(urgent, (job for id, job in self.tally.jobs.items() if id != urgent.id)),
            checks.ran_once(now["twice.py"], self._again or urgent),
        ]


def _source() -> str:
    return Path(analysis.__file__).read_text(encoding="utf-8")
