"""The command `thoonk-jobs`. What is slow to import is imported by the command that needs it.

Results go to standard output and nothing else does; errors go to standard error. Exit codes: 0, 1 refused, 2 usage,
69 no server.
"""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from thoonk_jobs.errors import BrokerUnavailable, ConfigError, InvalidArgument, PayloadError, ThoonkError

if TYPE_CHECKING:
    from rich.console import Console

    from thoonk_jobs import Broker, EmbeddedServer, Job

REFUSED, USAGE, NO_SERVER = 1, 2, 69
RETRY_FOR = 2.0
PIPE_WIDTH = 200
FIELDS = (
    "id", "queue", "state", "outcome", "priority", "claims", "failures", "cancels", "lost", "total_failures",
    "total_cancels", "key", "reason", "worker", "published_at", "due_at", "claimed_at", "finished_at", "expires_at",
)  # fmt: skip

app = typer.Typer(
    help="Event-driven jobs on Redis and Valkey. Exit codes: 0, 1 refused, 2 usage, 69 no server.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
server = typer.Typer(help="The embedded server: a private valkey-server, started on demand.", no_args_is_help=True)
app.add_typer(server, name="server")

Url = Annotated[str | None, typer.Option(envvar="THOONK_URL", help="The server; without it the embedded one.")]
Namespace = Annotated[str, typer.Option(help="Brokers of different namespaces see nothing of each other.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Directory = Annotated[Path | None, typer.Option("--dir", help="Its data; without it THOONK_HOME or the usual place.")]
QueueName = Annotated[str, typer.Argument(metavar="QUEUE", show_default=False)]
JobId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
Folder = Annotated[Path | None, typer.Argument(exists=True, file_okay=False, show_default="the standard library")]


def main() -> None:
    """The entry point: runs a command and turns errors into exit codes."""
    try:
        app()
    except BrokerUnavailable as error:
        _fail(error, NO_SERVER)
    except (ConfigError, InvalidArgument, PayloadError) as error:
        _fail(error, USAGE)
    except ThoonkError as error:
        _fail(error, REFUSED)


@app.command()
def demo(folder: Folder = None, url: Url = None, namespace: Namespace = "thoonk-demo", as_json: AsJson = False) -> None:
    """See it work: one job for each .py file of FOLDER, two worker processes, every result heard of.

    Without --url on a private server in a temporary directory, else on a queue of its own, which is deleted.
    """
    from thoonk_jobs.demo.run import run

    report, checks = run(folder, url, namespace, _console(stderr=as_json))
    if as_json:
        found = [{"name": check.name, "passed": check.passed, "found": check.found} for check in checks]
        _print_json({**report, "checks": found})
    if not all(check.passed for check in checks):
        raise typer.Exit(REFUSED)


@app.command()
def machine(as_json: AsJson = False, mermaid: Annotated[bool, typer.Option(help="Print the picture.")] = False) -> None:
    """Print the state machine: its states, and the rows of its table."""
    if mermaid:
        from thoonk_jobs import document

        sys.stdout.write(document.mermaid())
    elif as_json:
        _print_json(_machine())
    else:
        model = _machine()
        _print_table("states", ("state", "meaning"), ((state["name"], state["meaning"]) for state in model["states"]))
        head = ("transition", "from", "to", "who", "events", "meaning")
        _print_table("transitions", head, (_row(row) for row in model["transitions"]))


@app.command()
def publish(
    queue: QueueName,
    data: Annotated[str, typer.Argument(metavar="JSON", show_default=False)],
    id: Annotated[str | None, typer.Option(help="Publishing it again makes no second job.")] = None,
    priority: Annotated[str | None, typer.Option(help="A number, or low, normal, high, critical, front.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds before its earliest start.")] = None,
    url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Hand over one job, and print its id."""
    with _broker(url, namespace) as broker:
        job = broker.queue(queue).publish(_parse(data), id=id, priority=_priority(priority), delay=delay)
        _say(as_json, {"id": job.id, "queue": queue, "state": job.state.value}, job.id)


@app.command()
def get(
    queue: QueueName,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; 0 looks once, without it for ever.")] = None,
    url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Take the most urgent job, print its data as JSON, and finish it."""
    with _broker(url, namespace) as broker:
        claim = broker.queue(queue).get(timeout)
        if claim is None:
            _fail(f"no job in queue {queue!r} in {timeout:g} s", REFUSED)
        with claim:  # printed first: a job whose data nobody got fails
            _print_json({**_fields(claim), "data": _plain(claim.data)} if as_json else _plain(claim.data))
            sys.stdout.flush()


@app.command()
def status(url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False) -> None:
    """How many jobs are in each state of each queue."""
    from thoonk_jobs import State

    with _broker(url, namespace) as broker:
        found = {name: {str(state): n for state, n in counts.items()} for name, counts in broker.counts().items()}
    if as_json:
        _print_json(found)
    else:
        shown = [state for state in State if state is not State.ABSENT]
        rows = ((name, *(str(counts[state]) for state in shown)) for name, counts in found.items())
        _print_table("queues", ("queue", *shown), rows)


@app.command()
def jobs(
    queue: QueueName,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(help="So many at most.")] = 100,
    cursor: Annotated[str | None, typer.Option(help="Go on after the page that ended with it.")] = None,
    url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False,
) -> None:  # fmt: skip
    """List jobs, the most urgent first."""
    with _broker(url, namespace) as broker:
        page = broker.queue(queue).jobs(state, limit=limit, cursor=cursor)
        if as_json:
            _print_json({"jobs": [_whole(job) for job in page.jobs], "cursor": page.cursor})
        else:
            _print_jobs(queue, page.jobs, page.cursor)


def _operator_command(verb: str, told: str) -> None:
    def command(
        queue: QueueName, id: JobId, url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False
    ) -> None:
        with _broker(url, namespace) as broker:
            getattr(broker.queue(queue), verb)(id)
            state = broker.queue(queue).state_of(id).value
        _say(as_json, {"id": id, "queue": queue, "state": state}, f"job {id!r} of queue {queue!r} is {state}")

    app.command(verb, help=told)(command)


_operator_command("retry", "Let a stalled job run again.")
_operator_command("rerun", "Run a finished job once more.")
_operator_command("retract", "Withdraw a job that is not finished.")
_operator_command("stall", "Set a job aside, until somebody retries or retracts it.")


def _pause_command(verb: str, told: str, paused: bool) -> None:
    def command(queue: QueueName, url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False) -> None:
        with _broker(url, namespace) as broker:
            getattr(broker.queue(queue), verb)()
        _say(as_json, {"queue": queue, "paused": paused}, f"queue {queue!r} is {'' if paused else 'not '}paused")

    app.command(verb, help=told)(command)


_pause_command("pause", "Hand out no more jobs of a queue, in any process, until `resume`.", True)
_pause_command("resume", "Hand out the jobs of a queue again.", False)


@server.command("start")
def server_start(directory: Directory = None, as_json: AsJson = False) -> None:
    """Start the server, or find the living one, and print its URL."""
    url = _embedded(directory).start()
    _say(as_json, {"url": url}, url)


@server.command("stop")
def server_stop(directory: Directory = None, as_json: AsJson = False) -> None:
    """End the server; nothing is lost."""
    stopped = _embedded(directory).stop()
    _say(as_json, {"stopped": stopped}, "stopped" if stopped else "was not running")


@server.command("status")
def server_status(directory: Directory = None, as_json: AsJson = False) -> None:
    """What is known of the server; exit code 1 if it does not run."""
    known = _embedded(directory).status()
    fields = {name: getattr(known, name) for name in ("running", "pid", "url", "version")}
    told = f"running, pid {known.pid}, version {known.version}, {known.url}" if known.running else "not running"
    _say(as_json, {**fields, "directory": str(known.directory)}, f"{told}; its data is in {known.directory}")
    raise typer.Exit(0 if known.running else REFUSED)


def _broker(url: str | None, namespace: str) -> Broker:
    from thoonk_jobs import Broker

    return Broker(url, namespace=namespace, retry_for=RETRY_FOR)


def _embedded(directory: Path | None) -> EmbeddedServer:
    from thoonk_jobs import EmbeddedServer

    return EmbeddedServer(directory)


def _parse(text: str) -> Any:
    from thoonk_jobs import codec

    try:
        return codec.decode(b"j" + text.encode())
    except (PayloadError, UnicodeEncodeError):
        raise InvalidArgument(f"{text!r} is not JSON; quote text twice, as '\"text\"'") from None


def _priority(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _fields(job: Job) -> dict[str, Any]:
    return {name: _plain(getattr(job, name)) for name in FIELDS}


def _whole(job: Job) -> dict[str, Any]:
    more = {name: _plain(getattr(job, name)) for name in ("data", "headers", "result")}
    error, progress = job.error and asdict(job.error), job.progress and asdict(job.progress)
    if job.progress and progress:
        progress.update(percent=job.progress.percent, at=_plain(job.progress.at))
    return {**_fields(job), **more, "error": error, "progress": progress}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and value == float("inf"):
        return "front"
    return str(value) if type(value) is not str and isinstance(value, str) else value


def _machine() -> dict[str, Any]:
    from thoonk_jobs.machine import MEANINGS, TRANSITIONS

    rows = [
        {"name": row.name, "from": [state.value for state in row.sources], "to": row.target.value, "who": row.who,
         "events": [event.value for event in row.events], "meaning": row.meaning,
         "outcome": row.outcome.value if row.outcome else None}
        for row in TRANSITIONS
    ]  # fmt: skip
    return {"states": [{"name": state.value, "meaning": told} for state, told in MEANINGS.items()], "transitions": rows}


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    to = f"{row['to']} ({row['outcome']})" if row["outcome"] else row["to"]
    return row["name"], ", ".join(row["from"]), to, row["who"], ", ".join(row["events"]), row["meaning"]


def _print_jobs(queue: str, jobs: Iterable[Job], cursor: str | None) -> None:
    head = ("id", "state", "priority", "claims", "failures", "cancels", "published", "why")
    rows = (
        (job.id, job.outcome or job.state, f"{job.priority:g}", str(job.claims), str(job.total_failures),
         str(job.total_cancels), f"{job.published_at:%Y-%m-%d %H:%M:%S}", job.error.message if job.error else job.reason or "")
        for job in jobs
    )  # fmt: skip
    _print_table(f"jobs of {queue}", head, rows)
    if cursor:
        print(f"more with --cursor {cursor}")


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH  # a pipe has no width to fit in
    return Console(stderr=stderr, width=width, highlight=False)


def _print_table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(_printable(title)))
    for place, name in enumerate(head):
        table.add_column(name, no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    _console().print(table)


def _printable(text: str) -> str:
    """Without what could steer a terminal: this text may come from anybody."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _say(as_json: bool, value: dict[str, Any], text: str) -> None:
    _print_json(value) if as_json else print(_printable(text))


def _print_json(value: Any) -> None:
    from thoonk_jobs import codec

    print(codec.encode(value)[1:].decode())


def _fail(why: object, code: int) -> NoReturn:
    print(f"thoonk-jobs: {why}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
