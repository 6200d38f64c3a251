"""The socket between processes of one user: who may use it, and what a request survives."""

import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.local_socket import LocalServer, ask

LIMIT = 1000


@pytest.fixture
def path() -> Iterator[Path]:
    """A path that is short enough wherever pytest keeps its own folders."""
    with TemporaryDirectory() as folder:
        yield Path(folder) / "own" / "s"


def _serve_one(server: LocalServer) -> threading.Thread:
    def run() -> None:
        request = server.receive(10)
        if request is not None:
            request.reply(request.payload[::-1])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_request_gets_its_reply(path: Path) -> None:
    with LocalServer(path, LIMIT) as server:
        for payload in (b"abc", b""):
            thread = _serve_one(server)
            assert ask(path, payload, LIMIT, 10) == payload[::-1]
            thread.join(5)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert server.receive(0) is None
    assert not path.exists()


def test_a_socket_that_cannot_be_locked(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    (path.parent / "s.lock").mkdir()
    with pytest.raises(ConfigError, match=r"^silo.socket: cannot listen on .*: Is a directory$"):
        LocalServer(path, LIMIT)


def test_broken_requests_hurt_no_other(path: Path) -> None:
    with LocalServer(path, LIMIT) as server:
        for sent in (b"", b"GET / HTTP/1.1\r\n\r\n", b"fedT\x01" + struct.pack(">Q", LIMIT + 1)):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(path))
                caller.sendall(sent)
        thread = _serve_one(server)
        assert ask(path, b"abc", LIMIT, 10) == b"cba"
        thread.join(5)


def test_who_asked_may_be_gone_when_the_reply_comes(path: Path) -> None:
    with LocalServer(path, LIMIT) as server:
        with pytest.raises(FederationError, match=r"within 0.1 s"):
            ask(path, b"abc", LIMIT, 0.1)
        request = server.receive(5)
        assert request is not None and request.payload == b"abc"
        request.reply(bytes(LIMIT))
        thread = _serve_one(server)
        assert ask(path, b"next", LIMIT, 10) == b"txen"
        thread.join(5)


def test_a_reply_that_is_too_long_is_refused(path: Path) -> None:
    with LocalServer(path, LIMIT) as server:
        thread = _serve_one(server)
        with pytest.raises(FederationError, match="at most 2 are allowed"):
            ask(path, b"abc", 2, 10)
        thread.join(5)


def test_two_listeners_on_one_path(path: Path) -> None:
    with (
        LocalServer(path, LIMIT),
        pytest.raises(ConfigError, match=r"a worker already listens on .*; stop it or choose"),
    ):
        LocalServer(path, LIMIT)
    LocalServer(path, LIMIT).close()


def test_the_socket_of_a_killed_process_is_replaced(path: Path) -> None:
    code = (
        "import sys, time; from fedtt_lightning.silo.local_socket import LocalServer;"
        f"server = LocalServer({str(path)!r}, 9); print(1, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"1\n"
        with pytest.raises(ConfigError, match="already listens"):
            LocalServer(path, LIMIT)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=10)
    assert path.exists()
    with LocalServer(path, LIMIT) as server:
        thread = _serve_one(server)
        assert ask(path, b"abc", LIMIT, 10) == b"cba"
        thread.join(5)


def test_nobody_listens(path: Path) -> None:
    with pytest.raises(FederationError, match=f"no process listens on {path}"):
        ask(path, b"abc", LIMIT, 1)


def test_a_path_that_is_too_long(path: Path) -> None:
    long = path.parent / ("x" * 108)
    with pytest.raises(ConfigError, match=r"^silo.socket: .* at most 107: choose a shorter one$"):
        LocalServer(long, LIMIT)


def test_another_file_is_kept(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"^silo.socket: .* is another file: choose"):
        LocalServer(path, LIMIT)
    assert path.read_text() == "mine"


def test_a_folder_that_others_can_enter(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o755)  # whatever the umask
    with pytest.raises(ConfigError, match=r"silo.socket: others can enter the folder"):
        LocalServer(path, LIMIT)


def test_another_user_is_turned_away(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can act as another user")
    server = LocalServer(path, LIMIT)
    for opened in (path.parent.parent, path.parent, path):
        opened.chmod(0o777)
    child = os.fork()
    if child == 0:
        end = 99
        with suppress(BaseException), socket.socket(socket.AF_UNIX) as caller:
            os.setuid(65534)
            caller.settimeout(10)
            caller.connect(str(path))
            end = len(caller.recv(1))
        os._exit(end)
    try:
        assert server.receive(1) is None
    finally:
        server.close()  # a child whose connection was not taken ends, too
        _, status = os.waitpid(child, 0)
    assert status == 0
