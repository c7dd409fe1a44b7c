"""Nothing grows past a screen or two, and some things are never written at all."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "thoonk_jobs").rglob("*.py"))
LUA = sorted((ROOT / "thoonk_jobs").rglob("*.lua"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FILE, FUNCTION, TEST_FILE = 300, 40, 600

BANNED_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
BANNED_CALLS = {"eval", "exec", "__import__"}
PUT_OFF = re.compile(r"\b(TODO|FIXME)\b")

LUA_TOKEN = re.compile(
    r"""(?P<comment>--\[(?P<a>=*)\[.*?\](?P=a)\]|--[^\n]*)
      | \[(?P<b>=*)\[.*?\](?P=b)\] | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*"
      | (?P<word>\b(?:function|if|do|repeat|end|until)\b)""",
    re.VERBOSE | re.DOTALL,
)


def name(path):
    return str(path.relative_to(ROOT))


def lines(text):
    return len(text.splitlines())


def python_functions(source):
    """Line, name and number of lines of each function, its docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_text = ast.get_docstring(node, clean=False) is not None
            text = first.end_lineno - first.lineno + 1 if has_text else 0
            yield node.lineno, node.name, node.end_lineno - node.lineno + 1 - text


def lua_functions(source):
    """First line and number of lines of each function, also those without a name."""
    opened = []
    for found in LUA_TOKEN.finditer(source):
        word, line = found["word"], source.count("\n", 0, found.start()) + 1
        if word in ("end", "until"):
            opener, start = opened.pop()
            if opener == "function":
                yield start, line - start + 1
        elif word:
            opened.append((word, line))
    assert not opened, f"unbalanced blocks: {opened}"


def python_comments(source):
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def lua_comments(source):
    for found in LUA_TOKEN.finditer(source):
        if found["comment"]:
            yield source.count("\n", 0, found.start()) + 1, found["comment"]


def bans(source):
    """Line and name of what must not be used: it runs what somebody sent."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = [node.module or ""]
        else:
            if isinstance(node, ast.Name) and node.id in BANNED_CALLS:
                yield node.lineno, node.id
            continue
        yield from ((node.lineno, each) for each in named if each.partition(".")[0] in BANNED_MODULES)


@pytest.mark.parametrize("path", PACKAGE + LUA, ids=name)
def test_a_file_has_300_lines_at_most(path):
    assert lines(path.read_text()) <= FILE, "it has found a second subject"


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_a_file_of_tests_has_600_lines_at_most(path):
    assert lines(path.read_text()) <= TEST_FILE


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_a_function_has_40_lines_at_most(path):
    long = [
        f"{line}: {name}, {size} lines" for line, name, size in python_functions(path.read_text()) if size > FUNCTION
    ]
    assert long == []


@pytest.mark.parametrize("path", LUA, ids=name)
def test_a_lua_function_has_40_lines_at_most(path):
    long = [f"{line}: {size} lines" for line, size in lua_functions(path.read_text()) if size > FUNCTION]
    assert long == []


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_nothing_sent_is_ever_run(path):
    assert list(bans(path.read_text())) == []


@pytest.mark.parametrize("path", PACKAGE + LUA + TESTS, ids=name)
def test_nothing_is_put_off_in_a_comment(path):
    comments = python_comments if path.suffix == ".py" else lua_comments
    assert [comment for comment in comments(path.read_text()) if PUT_OFF.search(comment[1])] == []


def test_there_is_something_to_measure():
    assert {"codec.py", "machine.py"} <= {path.name for path in PACKAGE}
    assert "lib.lua" in {path.name for path in LUA}


def test_a_function_is_measured_without_its_docstring():
    source = """\
class A:
    @property
    async def b(self):
        '''One.

        Two.
        '''
        return (
            1
        )
"""

    assert list(python_functions(source)) == [(3, "b", 4)]


def test_a_lua_function_is_measured_with_its_blocks():
    source = """\
local function one(a) -- end of nothing
  for _, b in ipairs(a) do
    if b == 'end' then return "it's \\" end" elseif b then repeat b = b - 1 until b end
  end
  while a do a = [[ end ]] end
end
--[[ function two() ]]
list = {[1] = function() do
  end end, sender = 3}
"""

    assert list(lua_functions(source)) == [(1, 6), (8, 2)]


def test_what_is_banned_is_found():
    source = """\
import os, pickle
from yaml import load
def f():
    import marshal
    eval('1'); re.compile('')
    g = exec
"""

    assert sorted(bans(source)) == [(1, "pickle"), (2, "yaml"), (4, "marshal"), (5, "eval"), (6, "exec")]


def test_only_comments_are_searched_for_what_is_put_off():
    assert [line for line, _ in python_comments("a = '# one'\nb = 1  # two")] == [2]
    assert [line for line, _ in lua_comments("a = '-- one'\nb = 1 -- two\n--[[ three\n]]")] == [2, 3]
