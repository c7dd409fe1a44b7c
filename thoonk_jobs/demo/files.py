"""Which files the demo reads."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def python_files(folder: Path | None) -> tuple[Path, list[Path]]:
    """The folder, absolute, and all .py files below it; without a folder the standard library, without its tests."""
    left_out = LEFT_OUT if folder is None else set()
    root = Path(sysconfig.get_path("stdlib") if folder is None else folder).resolve()
    found = []
    for base, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in left_out)
        paths = (Path(base, name) for name in sorted(names) if name.endswith(".py"))
        found += [path for path in paths if path.is_file()]  # a pipe named so would be read for ever
    return root, found
