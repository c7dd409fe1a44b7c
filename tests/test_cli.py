"""The command, against real servers: what it prints, where it prints it, and how it ends."""

import base64
import json
import os
import subprocess
import sys

import pytest

from thoonk_jobs import State, cli
from thoonk_jobs.machine import ROWS, TRANSITIONS

NOWHERE = "redis://127.0.0.1:1"


class Ran:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        """What was printed, if it is one line of JSON and nothing else."""
        [line] = self.out.splitlines()
        return json.loads(line)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command within this process, from `main` on."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for name in ("THOONK_URL", "THOONK_HOME", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["thoonk-jobs", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return Ran(ended.value.code or 0, printed.out, printed.err)

    return run


@pytest.fixture
def here(command, url, namespace):
    """The same with the server and namespace of the test."""
    return lambda *args: command(*args, "--url", url, "--namespace", namespace)


def test_the_table_of_the_machine_has_all_rows_and_states(command):
    ran = command("machine")

    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.out.splitlines() if "│" in line]
    assert {cells[0] for cells in lines} >= {*ROWS, *State}
    assert len(ROWS) == 22
    for row in TRANSITIONS:
        [cells] = [cells for cells in lines if cells[0] == row.name]
        assert cells[1:6] == [", ".join(row.sources), row.target, row.outcome or "", row.who, ", ".join(row.events)]


def test_the_machine_as_json_is_the_table(command):
    found = command("machine", "--json").json

    assert [state["name"] for state in found["states"]] == list(State)
    assert [(row["name"], tuple(row["from"]), row["to"], row["outcome"]) for row in found["transitions"]] == [
        (row.name, row.sources, row.target, row.outcome) for row in TRANSITIONS
    ]


def test_the_picture_of_the_machine_has_all_rows(command):
    ran = command("machine", "--mermaid")

    assert ran.out.startswith("stateDiagram-v2\n")
    drawn = {name for line in ran.out.splitlines() if ": " in line for name in line.partition(": ")[2].split(", ")}
    assert drawn == set(ROWS)


def test_publish_prints_the_id_and_nothing_else(here, queue):
    ran = here("publish", "letters", '{"to": "ann"}')

    job = queue.job(ran.out.rstrip("\n"))
    assert (job.data, job.state, ran.err, ran.code) == ({"to": "ann"}, State.AVAILABLE, "", 0)


def test_publish_takes_an_id_a_priority_and_a_delay(here, queue):
    ran = here("publish", "letters", "1", "--id", "a", "--priority", "high", "--delay", "60", "--json")

    assert ran.json == {"id": "a", "queue": "letters", "state": "scheduled"}
    assert (queue.job("a").priority, queue.job("a").state) == (10.0, State.SCHEDULED)
    here("publish", "letters", "1", "--id", "b", "--priority", "2.5")
    assert queue.job("b").priority == 2.5


def test_publishing_an_id_again_is_no_second_job_and_with_other_data_refused(here, queue):
    here("publish", "letters", "1", "--id", "a")

    assert here("publish", "letters", "1", "--id", "a").code == 0
    refused = here("publish", "letters", "2", "--id", "a")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("thoonk-jobs: cannot publish job 'a'")
    assert queue.ids() == ["a"]


def test_get_prints_the_data_and_finishes_the_job(here, queue):
    queue.publish({"to": "ann"}, id="a")

    ran = here("get", "letters", "--timeout", "5")

    assert (ran.json, ran.code) == ({"to": "ann"}, 0)
    assert queue.job("a").outcome == "success"


def test_get_as_json_has_the_whole_job(here, queue):
    queue.publish("x", id="a", headers={"trace": "7"})

    found = here("get", "letters", "--json").json

    assert (found["id"], found["data"], found["headers"], found["state"]) == ("a", "x", {"trace": "7"}, "claimed")


def test_get_shows_bytes_as_base64(here, queue):
    queue.publish(b"\x00\xff")

    assert base64.b64decode(here("get", "letters").json["base64"]) == b"\x00\xff"


def test_get_from_an_empty_queue_is_refused(here):
    ran = here("get", "letters", "--timeout", "0")

    assert (ran.code, ran.out, ran.err) == (1, "", "thoonk-jobs: no job in queue 'letters' in 0 s\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full to print to")
def test_a_job_that_could_not_be_printed_is_not_finished(url, namespace, queue):
    queue.publish("x", id="a")

    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "thoonk_jobs.cli", "get", "letters", "--url", url, "--namespace", namespace],
            stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip

    assert ran.returncode != 0
    assert queue.job("a").state is State.STALLED


def test_status_counts_each_state_of_each_queue(here, broker, queue):
    queue.publish_many([1, 2])
    broker.queue("parcels").publish(1, delay=60)

    assert here("status", "--json").json == {
        name: {str(state): number for state, number in counts.items()} for name, counts in broker.counts().items()
    }
    shown = [line.split("│")[1:-1] for line in here("status").out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in line] for line in shown] == [
        ["letters", "0", "0", "0", "2", "0", "0", "0"],
        ["parcels", "0", "1", "0", "0", "0", "0", "0"],
    ]


def test_status_without_queues_is_an_empty_table(here):
    assert here("status").code == 0
    assert here("status", "--json").json == {}


def test_jobs_come_page_by_page(here, queue):
    published = [job.id for job in queue.publish_many(range(5))]

    pages, cursor = [], None
    while not pages or cursor:
        page = here("jobs", "letters", "--limit", 2, "--json", *(["--cursor", cursor] if cursor else [])).json
        pages.append([job["id"] for job in page["jobs"]])
        cursor = page["cursor"]

    assert [id for page in pages for id in page] == published
    assert max(map(len, pages)) == 2
    assert "more with --cursor " in here("jobs", "letters", "--limit", 2).out


def test_jobs_of_one_state_say_why_they_are_there(here, queue):
    queue.publish("x", id="fine")
    queue.publish("x", id="bad", priority="front")
    queue.get().fail(ValueError("no such street"))

    ran = here("jobs", "letters", "--state", "stalled")

    assert "bad" in ran.out
    assert "no such street" in ran.out
    assert "fine" not in ran.out
    [job] = here("jobs", "letters", "--state", "stalled", "--json").json["jobs"]
    assert (job["id"], job["error"]["type"], job["failures"], job["priority"]) == ("bad", "ValueError", 1, "front")


def test_a_job_as_json_has_its_progress_and_times(here, queue):
    queue.publish("x")
    claim = queue.get()
    claim.set_progress(1, 4, "begun")

    [job] = here("jobs", "letters", "--json").json["jobs"]

    assert (job["progress"]["percent"], job["progress"]["message"]) == (25.0, "begun")
    assert job["claimed_at"] == queue.job(claim.id).claimed_at.isoformat()


def test_text_of_others_cannot_steer_the_terminal(here, queue):
    queue.publish("x", id="\x1b[2J\x9b")
    queue.stall("\x1b[2J\x9b", "[bold]\x1b]0;title\x07\nnext line")

    ran = here("jobs", "letters")
    verb = here("retry", "letters", "\x1b[2J\x9b")

    assert not {"\x1b", "\x07", "\x9b"} & {*ran.out, *verb.out}
    assert "[bold]\\x1b]0;title\\x07\\nnext line" in ran.out


def test_operators_move_a_job(here, queue):
    queue.publish("x", id="a")

    for verb, state in (("stall", "stalled"), ("retry", "available"), ("retract", "finished"), ("rerun", "available")):
        ran = here(verb, "letters", "a", "--json")

        assert ran.json == {"id": "a", "queue": "letters", "state": state}
        assert queue.job("a").state == state
    assert here("stall", "letters", "a").out == "job 'a' of queue 'letters' is stalled\n"


@pytest.mark.parametrize("verb", ["retry", "rerun", "retract", "stall"])
def test_a_job_that_is_not_there_is_refused(here, verb):
    unknown = here(verb, "letters", "nobody")

    assert (unknown.code, unknown.out) == (1, "")
    assert "nobody" in unknown.err


def test_a_refusal_names_the_state_of_the_job(here, queue):
    queue.publish("x", id="a")

    ran = here("retry", "letters", "a")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "thoonk-jobs: cannot retry job 'a' of queue 'letters': it is available\n"


def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(here, queue):
    queue.publish("x")

    assert here("pause", "letters", "--json").json == {"queue": "letters", "paused": True}
    assert here("get", "letters", "--timeout", "0").code == 1
    assert here("resume", "letters").out == "resumed queue 'letters'\n"
    assert here("get", "letters", "--timeout", "0").code == 0


USAGE = [
    ("no command", ()),
    ("an unknown command", ("nonsense",)),
    ("a missing argument", ("publish", "letters")),
    ("data that is no JSON", ("publish", "letters", "{x}")),
    ("data that cannot be text", ("publish", "letters", '"\udcff"')),
    ("a number that JSON has not", ("publish", "letters", "NaN")),
    ("an unknown priority", ("publish", "letters", "1", "--priority", "huge")),
    ("a negative delay", ("publish", "letters", "1", "--delay", "-1")),
    ("an unknown state", ("jobs", "letters", "--state", "lost")),
    ("a wrong cursor", ("jobs", "letters", "--cursor", "x")),
    ("no page at all", ("jobs", "letters", "--limit", "0")),
    ("a queue without a name", ("pause", "")),
    ("an unknown URL", ("status", "--url", "http://localhost")),
    ("a wrong namespace", ("status", "--namespace", "a b")),
    ("a folder that is not there", ("demo", "/no/such/folder")),
    ("a directory that is a file", ("server", "start", "--dir", "/dev/null")),
]


@pytest.mark.parametrize("args", [args for _, args in USAGE], ids=[name for name, _ in USAGE])
def test_wrong_usage_ends_with_2(command, valkey_url, args):
    ran = command(*args, *(["--url", valkey_url] if args[:1] in (("publish",), ("jobs",), ("pause",)) else []))

    assert (ran.code, ran.err != "" or not args) == (2, True)


def test_an_error_keeps_standard_output_clean(here):
    ran = here("publish", "letters", "{x}", "--json")

    assert ran.out == ""
    assert ran.err == "thoonk-jobs: '{x}' is not JSON; quote text twice, as '\"text\"'\n"


def test_without_a_server_it_ends_with_69(command):
    ran = command("status", "--url", NOWHERE)

    assert (ran.code, ran.out) == (69, "")
    assert NOWHERE in ran.err


def test_thoonk_url_is_the_usual_server_and_is_shown(command, monkeypatch, valkey_url, namespace):
    monkeypatch.setenv("THOONK_URL", valkey_url)

    assert command("publish", "letters", "1", "--namespace", namespace).code == 0
    assert "THOONK_URL" in command("publish", "--help").out


def test_the_embedded_server_is_started_seen_and_stopped(command, tmp_path):
    folder = tmp_path / "data"
    there = ("--dir", folder)

    before = command("server", "status", *there, "--json")
    started = command("server", "start", *there)
    seen = command("server", "status", *there, "--json")
    again = command("server", "start", *there, "--json")
    stopped = command("server", "stop", *there)

    assert (before.code, before.json["running"]) == (1, False)
    assert (started.code, started.out) == (0, f"{again.json['url']}\n")
    assert (seen.code, seen.json["running"], seen.json["url"]) == (0, True, again.json["url"])
    assert seen.json["directory"] == str(folder)
    assert (stopped.code, stopped.out) == (0, "stopped\n")
    assert command("server", "status", *there).code == 1
    assert command("server", "stop", *there, "--json").json == {"stopped": False}


def test_it_runs_as_a_module_with_an_embedded_server_of_its_own(tmp_path):
    def run(*args):
        environment = os.environ | {"THOONK_HOME": str(tmp_path / "data"), "THOONK_URL": ""}
        return subprocess.run(
            [sys.executable, "-m", "thoonk_jobs.cli", *args], env=environment, capture_output=True, text=True
        )

    try:
        published = run("publish", "letters", '{"to": "ann"}')
        got = run("get", "letters", "--timeout", "5")
    finally:
        stopped = run("server", "stop")

    assert (published.returncode, published.stderr) == (0, "")
    assert (got.stdout, got.stderr, got.returncode) == ('{"to":"ann"}\n', "", 0)
    assert (stopped.stdout, stopped.returncode) == ("stopped\n", 0)
