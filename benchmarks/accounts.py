"""What the server itself counts: its CPU time, its memory, the commands that clients sent it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from thoonk_jobs.scripts import SCRIPTS

SCRIPT_COMMANDS = ("evalsha", "eval", "fcall")
QUIET_FOR = 0.5
COUNTED = (
    "Commands are counted by total_reads_processed (INFO stats), the counter's own left out; the least is the scripts"
)


@dataclass(frozen=True)
class Account:
    """What was spent since the server began, or between two such moments.

    cpu      microseconds of the whole process, system and user.
    script   microseconds in scripts.
    scripts  script calls.
    reads    times that the server read from a client.
    """

    cpu: float
    script: float
    scripts: int
    reads: int

    @property
    def sent(self) -> int:
        """Commands that clients sent, those inside scripts not among them; 0 or more too few, see `Ledger`."""
        return max(self.reads, self.scripts)

    def since(self, before: Account) -> Account:
        """The difference."""
        return Account(
            self.cpu - before.cpu, self.script - before.script, self.scripts - before.scripts, self.reads - before.reads
        )


class Ledger:
    """Reads the accounts of a server, and leaves out what it sends itself.

    `total_commands_processed`, and `tot-cmds` of CLIENT LIST, count each command inside a script too. So commands are
    counted by `total_reads_processed`, which is the same where each is sent alone and has less than 16 KiB; the calls
    of scripts, counted exactly, are the least that it can be. `Overheard` has the rest.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._own = 0

    def read(self) -> Account:
        """All accounts at this moment."""
        info = self._client.info("everything")
        self._own += 1
        usage = [info.get(f"cmdstat_{name}", {"usec": 0, "calls": 0}) for name in SCRIPT_COMMANDS]
        return Account(
            cpu=1e6 * (info["used_cpu_sys"] + info["used_cpu_user"]),
            script=sum(entry["usec"] for entry in usage),
            scripts=sum(entry["calls"] for entry in usage),
            reads=info["total_reads_processed"] - self._own,
        )

    def wait_until_quiet(self, patience: float = 30.0) -> None:
        """Returns when nobody has sent anything for a while; what is sent every moment is not waited for."""
        until = time.monotonic() + patience
        before, since = self.read().reads, time.monotonic()
        while time.monotonic() - since < QUIET_FOR and time.monotonic() < until:
            time.sleep(QUIET_FOR / 5)
            now = self.read().reads
            if now != before:
                before, since = now, time.monotonic()

    def memory(self) -> int:
        """`used_memory`, once it has settled."""
        before, now = -1, int(self._client.info("memory")["used_memory"])
        while abs(now - before) > 4096:
            time.sleep(0.3)
            before, now = now, int(self._client.info("memory")["used_memory"])
        return now


class Overheard:
    """Every command that clients send from now on, by name, those of scripts by the name of the script.

    The server writes them down (MONITOR) and they are read at the end, so listening takes no time here.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._nonce = uuid4().hex
        self._monitor = client.monitor()
        self._monitor.__enter__()

    def end(self) -> Counter[str]:
        """How often each was sent; INFO, with which a `Ledger` looks, is left out."""
        heard: Counter[str] = Counter()
        self._client.echo(self._nonce)
        names = {script.sha: name for name, script in SCRIPTS.items()}
        while True:
            said = self._monitor.next_command()
            if self._nonce in said["command"]:
                break
            if said["client_type"] != "lua":
                verb, *arguments = said["command"].split(" ", 2)
                known = names.get(arguments[0]) if arguments else None
                heard[known or verb.lower()] += 1
        self._monitor.__exit__(None, None, None)
        heard.pop("info", None)
        return heard
