"""The demo as a whole: everything it starts ends with it, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from thoonk_jobs import Broker, InvalidArgument, Queue, ThoonkError, new_id
from thoonk_jobs.demo.checks import Check, workers_left
from thoonk_jobs.demo.crew import Crew, place, signals_kept, undisturbed_end
from thoonk_jobs.demo.files import python_files
from thoonk_jobs.demo.show import Show
from thoonk_jobs.demo.story import Story

WORKERS = 2


def run(folder: Path | None, url: str | None, namespace: str, console: Console) -> tuple[dict[str, Any], list[Check]]:
    """Runs the demo; returns what was found and what the checks say.

    folder  whose .py files are read; None is the standard library of this Python.
    url     of a server; None starts a private one in a temporary directory, which is removed.
    """
    root, files = python_files(folder)
    if not files:
        raise InvalidArgument(f"{str(root)!r} has no .py files; name another folder")
    with signals_kept(), place(url) as (where, planted), Broker(where, namespace=namespace) as broker:
        show = Show(console)
        show.say(f"{'server at ' + broker.config.url if url else 'private server'}; {WORKERS} workers; files of {root}")
        with _own_queue(broker) as queue:
            story, codes = _play(broker, queue, Story(queue, planted, show), files, show)
            checks = [*story.checks(), workers_left(codes)]
            report = _report(story, queue, root)
        show.end(report, checks)
    return report, checks


def _play(broker: Broker, queue: Queue, story: Story, files: list[Path], show: Show) -> tuple[Story, list[int]]:
    with Crew(WORKERS, broker.url, broker.config.namespace, queue.name) as crew, undisturbed_end(), show:
        story.publish(files)
        story.follow(crew)
        broker.join(10)
        codes = crew.stop()
        story.hear_the_rest()
    return story, codes


@contextmanager
def _own_queue(broker: Broker) -> Iterator[Queue]:
    """A queue that nobody else uses, deleted at the end: the server may be one that others work with."""
    queue = broker.queue(f"demo {new_id()}")
    try:
        yield queue
    finally:
        with suppress(ThoonkError):
            queue.delete()


def _report(story: Story, queue: Queue, root: Path) -> dict[str, Any]:
    sums = story.tally.sums()
    if sums["longest"]:
        sums["longest"]["file"] = str(Path(sums["longest"]["file"]).relative_to(root))
    number = story.tally.arrived.total()
    return {
        "jobs": {str(state): n for state, n in queue.counts().items()},
        **sums,
        "seconds": story.seconds,
        "jobs_per_second": number / story.seconds,
    }
