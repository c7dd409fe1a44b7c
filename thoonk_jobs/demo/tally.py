"""What the publisher of the demo heard, and the sums of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from thoonk_jobs import Job


class Tally:
    """Every result that arrived, in its order.

    arrived  id -> how often its on_finish was called.
    files    ids of the jobs that are files of the folder; the sums are of them.
    """

    def __init__(self) -> None:
        self.arrived: Counter[str] = Counter()
        self.jobs: dict[str, Job] = {}
        self.stalls: Counter[str] = Counter()
        self.files: set[str] = set()

    def add(self, job: Job) -> None:
        """A result arrived."""
        self.arrived[job.id] += 1
        self.jobs[job.id] = job

    def sums(self) -> dict[str, Any]:
        """Files, lines and words, the longest function with its file, and how many files do not parse."""
        found = {id: job.result for id, job in self.jobs.items() if id in self.files and job.result}
        longest = max(
            ({**one["longest"], "file": self.jobs[id].data["path"]} for id, one in found.items() if one["longest"]),
            key=lambda one: one["lines"], default=None,
        )  # fmt: skip
        return {
            "files": len(found),
            "lines": sum(one["lines"] for one in found.values()),
            "words": sum(one["words"] for one in found.values()),
            "unparsed": sum(one["trouble"] is not None for one in found.values()),
            "longest": longest,
            "workers": dict(sorted(Counter(one["worker"] for one in found.values()).items())),
        }
