"""The command `thoonk-jobs`. What is slow to import is imported by the command that needs it.

Results go to standard output and nothing else does; errors go to standard error. Exit codes: 0, 1 refused, 2 usage,
69 no server.
"""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from thoonk_jobs import codec
from thoonk_jobs.errors import BrokerUnavailable, ConfigError, InvalidArgument, PayloadError, ThoonkError

if TYPE_CHECKING:
    from rich.console import Console

    from thoonk_jobs import Broker, EmbeddedServer, Job

REFUSED, USAGE, NO_SERVER = 1, 2, 69
SHOWN = ("id", "state", "outcome", "priority", "claims", "total_failures", "total_cancels", "published_at")
FIELDS = (
    *SHOWN, "queue", "failures", "cancels", "lost", "key", "reason", "worker", "due_at", "claimed_at", "finished_at",
    "expires_at", "data", "headers", "result", "error", "progress",
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
    except ThoonkError as error:
        _fail(error, USAGE if isinstance(error, ConfigError | InvalidArgument | PayloadError) else REFUSED)


@app.command()
def demo(folder: Folder = None, url: Url = None, namespace: Namespace = "thoonk-demo", as_json: AsJson = False) -> None:
    """See it work: one job for each .py file of FOLDER, two worker processes, every result heard of.

    Without --url on a private server in a temporary directory, else on a queue of its own, which is deleted.
    """
    from thoonk_jobs.demo.run import run

    report, checks = run(folder, url, namespace, _console(stderr=as_json))
    if as_json:
        _print_json({**report, "checks": [asdict(check) for check in checks]})
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
        for title, rows in _machine().items():
            _print_table(title, rows)


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
        _say(as_json, {"id": job.id, "queue": queue, "state": job.state}, job.id)


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
            _print_json(_fields(claim) if as_json else _plain(claim.data))
            sys.stdout.flush()


@app.command()
def status(url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False) -> None:
    """How many jobs are in each state of each queue."""
    with _broker(url, namespace) as broker:
        found = {name: {str(state): n for state, n in counts.items()} for name, counts in broker.counts().items()}
    if as_json:
        _print_json(found)
    else:
        _print_table("queues", [{"queue": name, **counts} for name, counts in found.items()])


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
        _print_json({"jobs": [_fields(job) for job in page.jobs], "cursor": page.cursor})
        return
    rows = [_fields(job, SHOWN) | {"why": job.error.message if job.error else job.reason} for job in page.jobs]
    _print_table(f"jobs of {queue}", rows)
    if page.cursor:
        print(f"more with --cursor {page.cursor}")


def _operator_command(verb: str, told: str) -> None:
    def command(
        queue: QueueName, id: JobId, url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False
    ) -> None:
        with _broker(url, namespace) as broker:
            getattr(broker.queue(queue), verb)(id)
            state = broker.queue(queue).do(broker.queue(queue).state_of(id))
        _say(as_json, {"id": id, "queue": queue, "state": state}, f"job {id!r} of queue {queue!r} is {state}")

    app.command(verb, help=told)(command)


_operator_command("retry", "Let a stalled job run again.")
_operator_command("rerun", "Run a finished job once more.")
_operator_command("retract", "Withdraw a job that is not finished.")
_operator_command("stall", "Set a job aside, until somebody retries or retracts it.")


def _switch_command(verb: str, told: str) -> None:
    def command(queue: QueueName, url: Url = None, namespace: Namespace = "thoonk", as_json: AsJson = False) -> None:
        with _broker(url, namespace) as broker:
            getattr(broker.queue(queue), verb)()
        _say(as_json, {"queue": queue, "paused": verb == "pause"}, f"{verb}d queue {queue!r}")

    app.command(verb, help=told)(command)


_switch_command("pause", "Hand out no more jobs of a queue, in any process, until `resume`.")
_switch_command("resume", "Hand out the jobs of a queue again.")


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
    told = f"running, pid {known.pid}, version {known.version}, {known.url}" if known.running else "not running"
    _say(as_json, asdict(known) | {"directory": str(known.directory)}, f"{told}; its data is in {known.directory}")
    raise typer.Exit(0 if known.running else REFUSED)


def _broker(url: str | None, namespace: str) -> Broker:
    from thoonk_jobs import Broker

    return Broker(url, namespace=namespace, retry_for=2.0)


def _embedded(directory: Path | None) -> EmbeddedServer:
    from thoonk_jobs import EmbeddedServer

    return EmbeddedServer(directory)


def _parse(text: str) -> Any:
    try:
        return codec.decode(b"j" + text.encode())
    except (PayloadError, UnicodeEncodeError):
        raise InvalidArgument(f"{text!r} is not JSON; quote text twice, as '\"text\"'") from None


def _priority(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _fields(job: Job, names: tuple[str, ...] = FIELDS) -> dict[str, Any]:
    return {name: _plain(getattr(job, name)) for name in names}


def _plain(value: Any) -> Any:
    """A value as JSON has it; an error or a progress as an object of all it says."""
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        public = ((name, getattr(value, name)) for name in dir(value) if not name.startswith("_"))
        return {name: _plain(said) for name, said in public if not callable(said)}
    return "front" if value == float("inf") else value


def _machine() -> dict[str, Any]:
    from thoonk_jobs.machine import MEANINGS, TRANSITIONS

    rows = [
        {"name": row.name, "from": list(row.sources), "to": row.target, "outcome": row.outcome, "who": row.who,
         "events": list(row.events), "meaning": row.meaning}
        for row in TRANSITIONS
    ]  # fmt: skip
    return {"states": [{"name": state, "meaning": told} for state, told in MEANINGS.items()], "transitions": rows}


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 200  # a pipe has no width to fit in
    return Console(stderr=stderr, width=width, highlight=False)


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(_printable(title)))
    for place, name in enumerate(rows[0] if rows else ("none",)):
        table.add_column(name.replace("_", " "), no_wrap=place == 0, overflow="fold")
    for row in rows:
        cells = (
            ", ".join(cell) if isinstance(cell, list) else "" if cell is None else str(cell) for cell in row.values()
        )
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    _console().print(table)


def _printable(text: str) -> str:
    """Without what could steer a terminal: this text may come from anybody."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _say(as_json: bool, value: dict[str, Any], text: str) -> None:
    _print_json(value) if as_json else print(_printable(text))


def _print_json(value: Any) -> None:
    print(codec.encode(value)[1:].decode())


def _fail(why: object, code: int) -> NoReturn:
    print(f"thoonk-jobs: {why}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
