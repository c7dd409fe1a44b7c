"""The demo shows what it says, fails when it does not, and leaves nothing behind however it ends."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from thoonk_jobs import EmbeddedServer, State, cli
from thoonk_jobs.demo import checks, files, story
from thoonk_jobs.demo.analysis import analyse
from thoonk_jobs.demo.show import Show

NUMBER = 40
ANNOUNCED = [
    "published 40 files and 5 planted jobs",
    "urgent.py: published last, it is result ",
    "broken.py: failed and is stalled (SyntaxError: ",
    "broken.py: mended, and retried by hand",
    "broken.py: finished by worker ",
    "given-back.py: finished by worker ",
    "orphan.py: taken over by worker ",
    "twice.py: published twice with one id, run 1 time",
    "45 of 45 results",
]
SHOWN = [
    "every result arrived exactly once",
    "all jobs are finished",
    "a failed job was stalled, mended and retried",
    "a job that was given back was done",
    "the job of a worker that was killed was taken over",
    "an urgent job overtook all others",
    "a job published twice ran once",
    "the workers ended when told",
]


@pytest.fixture
def sources(tmp_path):
    """39 files of known size and one that does not parse."""
    root = tmp_path / "sources"
    for number in range(NUMBER - 1):
        folder = root / f"part{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        body = "    pass\n" * (number + 1)
        (folder / f"file{number}.py").write_text(f"def f{number}():\n{body}")
    (root / "unfinished.py").write_text("def f(:\n")
    (root / "notes.txt").write_text("not Python")
    return root


class Demo:
    """A demo in a process of its own, whose temporary files are in a place of its own."""

    def __init__(self, tmp_path, *args):
        self.temporary = tmp_path / "temporary"
        self.temporary.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("THOONK_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "thoonk_jobs.cli", "demo", *map(str, args)],
            env=environment | {"TMPDIR": str(self.temporary)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def read_until(self, text):
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"{text!r} was not said: {self.process.stderr.read()}")

    def end(self):
        return *self.process.communicate(timeout=60), self.process.returncode

    def processes(self, part=""):
        """pid of what runs with this TMPDIR, the demo itself too."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                # The server writes its title over its environment, and works in its directory.
                known = command + (folder / "environ").read_bytes() + os.fsencode(os.readlink(folder / "cwd"))
            except (PermissionError, ProcessLookupError, FileNotFoundError):
                continue
            if os.fsencode(self.temporary) in known and part.encode() in command:
                found.append(int(folder.name))
        return found


@pytest.fixture
def demo(tmp_path):
    started = []

    def start(*args):
        started.append(Demo(tmp_path, *args))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()
        for folder in one.temporary.glob("*/server"):
            EmbeddedServer(folder).stop()


linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="without /proc what runs cannot be looked at")


@linux
def test_a_demo_shows_everything_and_leaves_nothing(demo, sources):
    ran = demo(sources)
    out, err, code = ran.end()

    assert (err, code) == ("", 0)
    assert [text for text in ANNOUNCED if text not in out] == []
    assert re.search(r"given-back.py: worker \d gives it back", out)
    assert re.search(r"orphan.py: worker \d is killed with SIGKILL; its lease of 2 s runs out", out)
    assert [f"ok: {name}" for name in SHOWN] == out.splitlines()[-len(SHOWN) :]
    assert ran.processes() == []
    assert list(ran.temporary.iterdir()) == []


def test_the_table_has_the_true_sums(run):
    _, out, _ = run()

    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    shown = {row[0]: row[1] for row in rows if row[0]}
    lines = sum(number + 2 for number in range(NUMBER - 1)) + 1
    words = sum(number + 3 for number in range(NUMBER - 1)) + 2
    assert (shown["files"], shown["lines"], shown["words"]) == ("40", str(lines), str(words))
    assert (shown["files that do not parse"], shown["longest function"]) == ("1", "f38, 40 lines")
    assert ["", "part2/file38.py"] in rows
    assert {state: shown[f"jobs {state}"] for state in State} == dict.fromkeys(State, "0") | {State.FINISHED: "45"}
    assert sum(int(number) for name, number in shown.items() if name.startswith("files of worker ")) == 40
    assert float(shown["seconds"]) > 0


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing(demo, number):
    ran = demo()  # the standard library takes long enough to be interrupted
    ran.read_until("broken.py: mended")

    ran.process.send_signal(number)
    _, err, code = ran.end()

    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert "Traceback" not in err, err
    assert ran.processes() == []
    assert list(ran.temporary.iterdir()) == []


@linux
def test_the_workers_of_a_killed_demo_end(demo):
    ran = demo()
    ran.read_until("broken.py: mended")
    assert len(ran.processes("demo.worker")) == 2

    ran.process.kill()

    until = time.monotonic() + 20
    while ran.processes("demo.worker"):
        assert time.monotonic() < until
        time.sleep(0.02)


@linux
def test_a_demo_whose_workers_die_says_so(demo):
    ran = demo()
    ran.read_until("broken.py: mended")

    for worker in ran.processes("demo.worker"):
        os.kill(worker, signal.SIGKILL)
    _, err, code = ran.end()

    assert code == 1
    assert re.fullmatch(r"thoonk-jobs: worker \d ended with code -9 before its work was done\n", err)
    assert ran.processes() == []


@pytest.fixture
def run(monkeypatch, capsys, valkey_url, namespace, sources):
    """Runs a demo, on the server of the test, whose publisher is in this process."""

    def run(*args, url=valkey_url):
        given = ["thoonk-jobs", "demo", str(sources), "--url", url, "--namespace", namespace, *args]
        monkeypatch.setattr(sys, "argv", given)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_a_demo_on_a_given_server_leaves_no_queue(run, url, client, namespace):
    code, _, err = run(url=url)

    assert (code, err) == (0, "")
    assert client.keys(f"*{namespace}*") == [f"{namespace}:layout".encode()]


def test_a_demo_as_json_prints_only_that(run):
    code, out, err = run("--json")

    found = cli.codec.decode(b"j" + out.encode())
    assert code == 0
    assert (found["files"], found["unparsed"], found["jobs"]["finished"]) == (40, 1, 45)
    assert found["longest"] == {"name": "f38", "lines": 40, "file": "part2/file38.py"}
    assert [check["name"] for check in found["checks"] if check["passed"]] == SHOWN
    assert "ok: " in err


def test_a_demo_that_loses_a_result_fails(run, monkeypatch):
    lost = []
    heard = story.Story._heard
    monkeypatch.setattr(story, "PATIENCE", 4.0)
    monkeypatch.setattr(story.Story, "_heard", lambda self, job: heard(self, job) if lost else lost.append(job))

    code, _, err = run()

    assert code == 1
    assert err == "thoonk-jobs: 1 of 45 results did not arrive, and nothing was heard for 4 s\n"


def test_a_demo_that_hears_a_result_twice_fails(run, monkeypatch):
    heard = story.Story._heard
    monkeypatch.setattr(story.Story, "_heard", lambda self, job: [heard(self, job), heard(self, job)])

    code, out, _ = run()

    assert code == 1
    assert "FAILED: every result arrived exactly once (45 jobs; 0 results missing, 45 repeated, " in out
    assert out.count("FAILED") == 1


def test_a_demo_whose_urgent_job_is_not_urgent_fails(run, monkeypatch):
    plant = story.Story._plant

    def late(self, name, priority=None, **asked):
        return plant(self, name, priority if name == "orphan.py" else None, **asked)

    monkeypatch.setattr(story.Story, "_plant", late)

    code, out, _ = run()

    assert code == 1
    assert "FAILED: an urgent job overtook all others" in out
    assert out.count("FAILED") == 1


def test_a_folder_without_python_is_wrong_usage(run, sources):
    for path in sources.rglob("*.py"):
        path.unlink()

    code, out, err = run()

    assert (code, out) == (2, "")
    assert err == f"thoonk-jobs: {str(sources)!r} has no .py files; name another folder\n"


@pytest.mark.parametrize(
    ("arrived", "passed"),
    [("ab", True), ("a", False), ("", False), ("aab", False), ("abc", False), ("aabb", False), ("ac", False)],
)
def test_results_that_are_missing_repeated_or_strange_are_seen(arrived, passed):
    assert checks.every_result_once({"a", "b"}, Counter(arrived)).passed is passed


def test_a_job_to_which_nothing_happened_passes_no_check(queue):
    plain, other = queue.publish("x"), queue.publish("y")
    for turn in (2, 1):
        queue.get(timeout=0).finish({"turn": turn})
    plain, other = plain.refresh(), other.refresh()

    assert not checks.mended(plain, 0).passed
    assert not checks.given_back(plain).passed
    assert not checks.taken_over(plain, "worker 1").passed
    assert not checks.overtook(plain, [other]).passed
    assert not checks.ran_once(plain, other).passed
    assert checks.ran_once(plain, plain).passed
    assert not checks.all_finished(queue.counts(), 3).passed
    assert checks.all_finished(queue.counts(), 2).passed


def test_a_job_that_waits_is_not_finished(queue):
    queue.publish("x")

    assert checks.all_finished(queue.counts(), 1).found == "1 available"
    assert not checks.all_finished(queue.counts(), 0).passed


def test_a_worker_that_was_killed_did_not_end_when_told():
    assert checks.workers_left([0, 0]).passed
    assert not checks.workers_left([0, -9]).passed


SOURCE = b"""\
class A:
    def short(self): pass

    async def outer(self):
        try:
            x = lambda: 1
        except ValueError:
            def inner():
                return 1
        match x:
            case 1:
                pass
"""


@pytest.mark.parametrize(
    ("source", "lines", "words", "longest", "trouble"),
    [
        (SOURCE, 12, 24, {"name": "outer", "lines": 9}, None),
        (b"", 0, 0, None, None),
        (b"x = 1", 1, 3, None, None),
        (b"# coding: latin-1\ns = '\xe9'\n", 2, 6, None, None),
        (b"s = '\xe9'\n", 1, 3, None, "SyntaxError"),
        (b"a\0b", 1, 1, None, "Error"),
        (b"(" * 3000, 1, 1, None, "Error"),
    ],
)
def test_a_file_is_analysed(tmp_path, source, lines, words, longest, trouble):
    path = tmp_path / "a.py"
    path.write_bytes(source)

    found = analyse(path)

    assert (found["lines"], found["words"], found["longest"]) == (lines, words, longest)
    assert (trouble in found["trouble"]) if trouble else found["trouble"] is None


def test_a_file_that_is_gone_is_trouble_and_no_exception(tmp_path):
    assert analyse(tmp_path / "gone.py")["trouble"].startswith("FileNotFoundError")


def test_the_longest_function_may_be_an_inner_one(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("for x in y:\n    with z:\n        def f():\n            return 1\n\n\ndef g(): pass\n")

    assert analyse(path)["longest"] == {"name": "f", "lines": 2}


def test_only_regular_python_files_are_read(tmp_path):
    (tmp_path / "tests").mkdir()
    for name in ("b.py", "a.py", "tests/test_a.py", "c.txt"):
        (tmp_path / name).write_text("")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")

    root, found = files.python_files(tmp_path)

    assert [str(path.relative_to(root)) for path in found] == ["a.py", "b.py", "tests/test_a.py"]


def test_the_usual_folder_is_the_standard_library_without_its_tests():
    root, found = files.python_files(None)

    assert root / "ast.py" in found
    assert 500 < len(found) < 2000
    assert not {"site-packages", "test", "tests"} & {part for path in found for part in path.relative_to(root).parts}


def test_on_a_terminal_there_is_a_live_bar():
    screen = io.StringIO()
    with Show(Console(file=screen, force_terminal=True, width=80)) as show:
        show.expect(2)
        show.say("[said]")
        show.arrived(1)
        show.arrived(2)

    assert "2/2" in screen.getvalue()
    assert "[said]" in screen.getvalue()
    assert "results" in screen.getvalue()
