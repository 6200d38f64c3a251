"""Who may reach the inner interfaces of Flower's port, seen from real connections."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedtt_lightning.silo.flower_main import OwnProcessesOnly
from fedtt_lightning.silo.flower_processes import environment

Ends = tuple[tuple[str, int], tuple[str, int]]


@pytest.fixture(params=["127.0.0.1", "::1", "dual"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Also one for IPv6 and IPv4 at once, where addresses look like ::ffff:127.0.0.1."""
    dual = request.param == "dual"
    family = socket.AF_INET if request.param == "127.0.0.1" else socket.AF_INET6
    try:
        server = socket.create_server(
            ("::" if dual else request.param, 0), family=family, dualstack_ipv6=dual
        )
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        yield server


def _target(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return ("127.0.0.1" if host == "::" else host), port


def _ends(connection: socket.socket) -> Ends:
    return connection.getpeername()[:2], connection.getsockname()[:2]


def _status(path: str, ends: Ends, kind: str = "http") -> int | None:
    """Return what the middleware answers, or the status of the app behind it, which is 200."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"status": 200})

    scope = {"type": kind, "path": path, "client": ends[0], "server": ends[1]}
    asyncio.run(OwnProcessesOnly(app)(scope, None, send))
    return sent[0]["status"] if sent else None


def test_this_user_s_processes_reach_everything(listener: socket.socket) -> None:
    with socket.create_connection(_target(listener)) as client:
        connection, _ = listener.accept()
        with connection:
            assert _status("/v1/control/start-run", _ends(connection)) == 200
            assert client.getsockname()[1] == connection.getpeername()[1]


def test_others_reach_what_is_for_silos_only() -> None:
    far = (("192.0.2.7", 40000), ("192.0.2.1", 443))
    assert _status("/v1/fleet/pull-messages", far) == 200
    for path in ("/v1/control/register-node", "/v1/runtime/acquire-task", "/docs", "/v1/fleet"):
        assert _status(path, far) == 403
    assert _status("/v1/control/x", far, kind="websocket") is None


def test_a_connection_that_was_closed_is_nobody_s(listener: socket.socket) -> None:
    client = socket.create_connection(_target(listener))
    connection, _ = listener.accept()
    ends = _ends(connection)
    client.close()
    with connection:
        assert _status("/v1/control/start-run", ends) == 403


def test_another_user_of_this_machine(listener: socket.socket) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can act as another user")
    listener.settimeout(10)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.close(write)
            os.setuid(65534)
            with socket.create_connection(_target(listener), timeout=10):
                os.read(read, 1)  # until the parent closes its end
        os._exit(0)
    os.close(read)
    try:
        connection, _ = listener.accept()
        with connection:
            assert _status("/v1/control/start-run", _ends(connection)) == 403
            assert _status("/v1/fleet/pull-messages", _ends(connection)) == 200
    finally:
        os.close(write)
        os.waitpid(child, 0)


def test_headers_do_not_say_who_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn, which serves the port, believes `X-Forwarded-For` of this machine's processes."""
    uvicorn = pytest.importorskip("uvicorn")
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"])

    def call() -> tuple[str, int]:
        config = uvicorn.Config(app, log_config=None)
        config.load()
        scope = {
            "type": "http",
            "client": ("127.0.0.1", 1),
            "headers": [(b"x-forwarded-for", b"127.0.0.1:2")],
        }
        with suppress(AttributeError):  # no server answers here
            asyncio.run(config.loaded_app(scope, None, None))
        return seen.pop()

    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    believed = call()
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert (believed, call()) == (("127.0.0.1", 2), ("127.0.0.1", 1))
