"""The benchmarks run and print what they promise. What they measure is not judged here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "benchmarks" / "core.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the benchmarks run on Linux"),
]


def run(*args):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("THOONK_")}
    ran = subprocess.run([sys.executable, CORE, *args], env=clean, capture_output=True, text=True, timeout=120)
    assert (ran.stderr, ran.returncode) == ("", 0)
    return ran.stdout


def rows(printed):
    """The cells of every line, which are two spaces or more apart."""
    return [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]


def test_the_cost_of_a_step_is_printed_for_each_batch_size():
    found = rows(run("--quick", "--only", "server"))

    sizes, steps = ("1", "10", "100", "100, long run"), ("publish", "claim", "finish", "all three")
    assert [row[:2] for row in found if len(row) > 1 and row[1] in steps] == [
        [size, step] for size in sizes for step in steps
    ]
    [whole] = [row for row in found if row[:2] == ["100", "all three"]]
    assert all(float(figure) > 0 for figure in whole[2:6])


def test_the_size_of_a_job_is_printed_for_each_state():
    found = {row[0]: row for row in rows(run("--quick", "--only", "bytes"))}

    for state in ("waiting", "finished, kept", "finished, bare record"):
        assert int(found[state][2]) > 100
    assert "key payload" in found


def test_the_cost_of_a_limit_is_printed_beside_a_queue_without_one():
    found = rows(run("--quick", "--only", "limits"))

    steps = ("publish", "claim", "finish", "all three")
    cases = [row for row in found if len(row) > 6 and row[3] in steps]
    assert [row[0] for row in cases] == (["1"] * 4 + ["100"] * 4) * 4
    assert all(float(figure) > 0 for row in cases for figure in row[4:8])


def test_what_full_keys_send_change_and_leave_quiet_is_printed():
    topics = ("limits-commands", "limits-changes", "limits-idle")
    found = rows(run("--quick", *(word for name in topics for word in ("--only", name))))

    assert [row[:2] for row in found if row[0] in ("20", "100", "200")] == [
        ["20", "60"],
        ["100", "300"],
        ["200", "600"],
    ]
    changed = {row[0]: row[1] for row in found if len(row) > 2}
    steps = ("set: 1", "raised: 2", "lowered: 1", "lifted")
    assert [changed[step] for step in steps] == ["400", "200", "200", "400"]
    [waiting] = [row for row in found if row[:2] == ["10", "10"]]
    assert waiting[2] == "20"


def test_topics_can_be_chosen_and_each_says_how_it_was_taken():
    printed = run("--quick", "--only", "bytes", "--only", "server")

    assert re.findall("^## (\\w+):", printed, re.MULTILINE) == ["bytes", "server"]
    assert len(re.findall("^Taken on valkey .* payload 100 bytes", printed, re.MULTILINE)) == 2
