"""Every example runs as its reader would run it, and prints what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thoonk_jobs import Broker, EmbeddedServer

EXAMPLES = Path(__file__).parents[1] / "examples"
PRINTED = {
    "asyncio_crawl": """\
/ has 2 links
/about has 0 links
/news has 2 links
/news/1 has 1 links
/news/2 has 0 links
""",
    "debounce": """\
index Hello
refused while it runs: True
index version 1 while 1 waits
index version 4
""",
    "events": """\
TASK_AVAILABLE publish
TASK_CLAIMED   claim
TASK_PROGRESS  {'value': 1, 'total': 2, 'message': 'onions are cut'}
tasted         {'salt': 'more'}
TASK_DONE      finish
done, before we listened: True
""",
    "hello": """\
ann -> hello, ann
bob -> hello, bob
cleo -> hello, cleo
the worker leaves
""",
    "limits_per_customer": """\
small has its 3 jobs already
at work: big & co, page 1; big & co, page 2; small, page 1
at work: big & co, page 3; small, page 2
at work: small, page 3
small is blocked for an hour: 2 failures within 60 s
blocked: []
""",
    "many": """\
published 1000
sum of the roots 499500.0
a good one 2.0
a bad one error no root of a negative number
""",
    "priorities_and_delay": """\
scheduled: 1 available: 5
inf: the house is on fire
10: post the letter
5.5: buy bread
0: water the plants
-10: sort the photos
20: later: call back
""",
    "progress": """\
 33 % printed cover
 67 % printed letters
100 % printed index
done: {'pages': 3}
""",
    "retry_stalled": """\
stalled after 2 failures: KeyError: 'pear'
retried: it is available, with 0 failures
finished: 21, 2 failures in all
""",
    "takeover": """\
carry this: claim 2, 1 lost
""",
    "worker_loop": """\
ann: success, sent to ann@example.com
bob: set aside, line to bob was busy 3 times
bob: retracted, None
""",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A THOONK_HOME of the examples; they leave its server running, as they would leave the user's."""
    folder = tmp_path_factory.mktemp("home")
    yield folder
    EmbeddedServer(folder).stop()


def run(name, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("THOONK_")}
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], env=clean | environment, capture_output=True, text=True, timeout=30
    )


def test_each_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_has_20_to_50_lines(name):
    assert 20 <= len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 50


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_promises_and_leaves_no_live_job(name, home):
    for _ in range(2):  # nothing that the first run left behind changes the second
        ran = run(name, THOONK_HOME=str(home))

        assert (ran.stdout, ran.stderr, ran.returncode) == (PRINTED[name], "", 0)
        with Broker(f"embedded:{home}") as broker:
            assert [broker.queue(queue).ids() for queue in broker.queues()] == [[] for _ in broker.queues()]


def test_an_example_runs_on_the_server_of_thoonk_url(url, tmp_path):
    ran = run("hello", THOONK_URL=url, THOONK_HOME=str(tmp_path))

    assert (ran.stdout, ran.returncode) == (PRINTED["hello"], 0)
    assert list(tmp_path.iterdir()) == []
