"""Imports point down only: read from the source, those inside functions and for type checking too."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "thoonk_jobs"

LAYERS = ("domain", "protocol", "server", "clients", "roles", "edges")

# A module is found by its name, or by that of the package it is in. A new one gets its place here first.
TABLE = {
    "machine": "domain",
    "record": "domain",
    "job": "domain",
    "errors": "domain",
    "keys": "domain",
    "codec": "domain",
    "ids": "domain",
    "arguments": "domain",
    "config": "domain",
    "publication": "domain",
    "settings": "domain",
    "limits": "domain",
    "event": "domain",
    "timing": "domain",
    "elapsed": "domain",
    "logs": "domain",
    "scripts": "protocol",
    "request": "protocol",
    "calls": "protocol",
    "news": "protocol",
    "flows": "protocol",
    "embedded": "server",
    "sync": "server",
    "server": "server",
    "drive": "clients",
    "faults": "clients",
    "connections": "clients",
    "stream": "clients",
    "engine": "clients",
    "commit": "clients",
    "attention": "clients",
    "line": "clients",
    "bells": "clients",
    "expected": "clients",
    "callbacks": "clients",
    "lease": "clients",
    "session": "clients",
    "blocking": "clients",
    "claiming": "clients",
    "claim": "clients",
    "base": "clients",
    "publishing": "clients",
    "working": "clients",
    "operating": "clients",
    "following": "clients",
    "roster": "clients",
    "subscription": "clients",
    "aio_subscription": "clients",
    "alarm": "clients",
    "queue": "clients",
    "client": "clients",
    "aio": "clients",
    "aio_queue": "clients",
    "aio_claim": "clients",
    "aio_session": "clients",
    "worker": "roles",
    "cli": "edges",
    "demo": "edges",
    "document": "edges",
    "http": "edges",
    "integrations": "edges",
    "testing": "edges",
    "__main__": "edges",
    "__init__": "edges",  # the public names: nothing below may ask for them
}

# Who may import what is bound to one place.
OWNERS = {
    "redis": {"drive", "stream", "faults", "embedded"},  # the last to ask a server that it starts, not for jobs
    "hiredis": {"stream"},
    "orjson": {"codec"},
    "structlog": {"logs"},
    "json": {"codec"},
}
# The two lowest layers are values and functions: nothing that waits, and few packages from elsewhere.
PURE = ("domain", "protocol")
WAITING = {
    "asyncio",
    "socket",
    "ssl",
    "select",
    "selectors",
    "subprocess",
    "http",
    "requests",
    "signal",
    "multiprocessing",
}
FOREIGN = {"orjson", "transitions", "structlog"}
STANDARD = frozenset(sys.stdlib_module_names)


def layer_of(module: str) -> str | None:
    """The layer of `calls`, or of `worker.execute`, which is that of `worker`."""
    return TABLE.get(module) or TABLE.get(module.partition(".")[0])


def module_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(source: str, module: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name of all that is imported; modules of this package as `thoonk_jobs.<module>`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["thoonk_jobs", *module.split(".")][: -node.level]
                base = ".".join([*here, *filter(None, [base])])
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix("thoonk_jobs.")
                yield node.lineno, f"{base}.{alias.name}" if inner in known else base


def faults(package: Path) -> list[str]:
    """What is wrong with the imports of a package, a sentence each."""
    modules = {module_of(path, package): path for path in sorted(package.rglob("*.py"))}
    found = [f"{module} has no layer: give it a line in TABLE" for module in modules if layer_of(module) is None]
    for module, path in modules.items():
        for line, name in imports(path.read_text(), module, set(modules)):
            why = fault(module, name)
            if why:
                found.append(f"{module}:{line} {why}")
    return found


def fault(module: str, name: str) -> str | None:
    layer, top = layer_of(module), name.partition(".")[0]
    if top == "thoonk_jobs":
        target = name.partition(".")[2] or "__init__"
        below = layer_of(target)
        if layer and below and LAYERS.index(below) > LAYERS.index(layer):
            return f"({layer}) imports {target} ({below}), which lies above it"
        return None
    owners = OWNERS.get(top)
    if owners is not None and module not in owners:
        return f"imports {top}, which only {', '.join(sorted(owners))} may"
    if layer in PURE and top in WAITING:
        return f"({layer}) imports {top}, but does no I/O"
    if layer in PURE and top not in STANDARD | FOREIGN:
        return f"({layer}) imports {top}, but uses only the standard library, {' and '.join(sorted(FOREIGN))}"
    return None


def test_imports_point_down_only():
    assert faults(PACKAGE) == []


BAD = {
    "errors": ("from thoonk_jobs.calls import finish", "(domain) imports calls (protocol)"),
    "keys": ("def later():\n    from thoonk_jobs.client import Broker", "(domain) imports client (clients)"),
    "record": ("if TYPE_CHECKING:\n    import thoonk_jobs.embedded", "(domain) imports embedded (server)"),
    "calls": ("from thoonk_jobs import drive", "(protocol) imports drive (clients)"),
    "flows": ("from . import client", "(protocol) imports client (clients)"),
    "engine": ("from .worker.execute import run", "(clients) imports worker.execute (roles)"),
    "lease": ("from thoonk_jobs import Broker", "(clients) imports __init__ (edges)"),
    "worker/settle": ("from ..cli import main", "(roles) imports cli (edges)"),
    "client": ("import redis.asyncio", "imports redis, which only drive, embedded, faults, stream may"),
    "cli": ("import json", "imports json, which only codec may"),
    "job": ("import asyncio", "(domain) imports asyncio, but does no I/O"),
    "scripts": ("import rich", "(protocol) imports rich, but uses only"),
    "newcomer": ("", "newcomer has no layer"),
}
GOOD = {
    "drive": "import redis\nfrom thoonk_jobs.request import finish",
    "codec": "import orjson\nimport json",
    "machine": "import transitions\nfrom thoonk_jobs.errors import ThoonkError",
    "worker/execute": "from thoonk_jobs.worker import settle\nfrom thoonk_jobs import client",
    "embedded": "import subprocess",
    "__init__": "from thoonk_jobs.client import Broker",
    "worker/__init__": "from thoonk_jobs.worker.execute import run",
}


def write(package, modules):
    for name, source in modules.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def test_imports_that_point_down_are_no_fault(tmp_path):
    write(tmp_path, {**dict.fromkeys(BAD, ""), **GOOD})

    assert faults(tmp_path) == ["newcomer has no layer: give it a line in TABLE"]


@pytest.mark.parametrize("name", BAD)
def test_each_kind_of_fault_is_found(tmp_path, name):
    source, expected = BAD[name]
    write(tmp_path, {**dict.fromkeys(BAD, ""), **GOOD, name: source})

    found = [fault for fault in faults(tmp_path) if name == "newcomer" or "newcomer" not in fault]

    assert len(found) == 1
    assert expected in found[0]
