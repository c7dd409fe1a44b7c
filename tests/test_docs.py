"""What is written agrees with what is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thoonk_jobs import EmbeddedServer, document
from thoonk_jobs.machine import TRANSITIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_statemachine_md_is_what_the_table_says():
    text = (ROOT / "statemachine.md").read_text(encoding="utf-8")

    assert document.renewed(text) == text, "statemachine.md is stale: run `make docs`"


def test_every_row_and_every_block_is_in_statemachine_md():
    text = (ROOT / "statemachine.md").read_text(encoding="utf-8")

    assert [row.name for row in TRANSITIONS if f"| **{row.name}** |" not in text] == []
    assert [name for name in document.BLOCKS if f"<!-- made: {name} -->" not in text] == []


EVENTS = ["weighed True 350", "TASK_DONE True None", "TASK_CLAIMED weighed TASK_DONE"]


def test_the_code_of_the_readme_runs_as_it_stands(folder: Path):
    """The publisher and the worker as two processes, at once; what follows when both have ended."""
    publisher, worker, further, loop, events, limits = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    environ = {**os.environ, "THOONK_HOME": str(folder)}
    environ.pop("THOONK_URL", None)

    def start(code: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", code], env=environ, text=True, **pipes)

    try:
        publishing, working = start(publisher), start(worker)
        told, trouble = publishing.communicate(timeout=60)
        assert (sorted(told.splitlines()), trouble) == (["ann success sent to ann", "bob success sent to bob"], "")
        assert working.communicate(timeout=60) == ("", "")
        told, trouble = start(f"from thoonk_jobs import Broker\n{further}").communicate(timeout=60)
        assert (told.splitlines(), trouble) == (["letter-7 1", "retracted"], "")
        told, trouble = start(loop).communicate(timeout=60)
        assert (told.splitlines(), trouble) == (["328350"], "")
        told, trouble = start(events).communicate(timeout=60)
        assert (told.splitlines(), trouble) == (EVENTS, "")
        told, trouble = start(limits).communicate(timeout=60)
        first, *rest = told.splitlines()
        assert re.fullmatch(r"\{'month': 'May'\} \['.{16}'\]", first)
        assert (rest, trouble) == (["unpaid 3600", "{'revision': 2}"], "")
    finally:
        EmbeddedServer(folder).stop()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_of_the_readme_lead_somewhere(link: str):
    assert (ROOT / link).exists()
