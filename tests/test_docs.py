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


def test_the_code_of_the_readme_runs_as_it_stands(folder: Path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    publisher, worker, further = blocks
    program = f"{publisher}\n{worker}\nbroker.join(10)\n{further}\nbroker.close()\n"
    environ = {**os.environ, "THOONK_HOME": str(folder)}
    environ.pop("THOONK_URL", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        EmbeddedServer(folder).stop()

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["bob success sent to bob", "ann success sent to ann", "letter-7 1", "retracted"]


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_of_the_readme_lead_somewhere(link: str):
    assert (ROOT / link).exists()
