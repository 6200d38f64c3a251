"""`python -m fedtt_lightning.silo.flower_main superlink|supernode ARGS`: Flower, with care.

Flower 1.41 leaves open what is closed here, all of it seen in 1.41.0:

- The port that silos connect to also serves Flower's control and runtime interfaces, to anybody:
  who reaches it may register a key or submit an app, which every silo then runs. Here only
  processes of this user on this machine may; others reach what is for silos (`/v1/fleet/`).
- A SuperNode hands its messages to any user of its machine, and takes their answers. Here not.
- A SuperNode runs any app that its SuperLink sends. Here it runs that of `flower_app` only.
- A SuperNode that found no message sleeps for 3 s. Here it sleeps for 1 s.
- A SuperNode that finds no server, or loses it, tries again after pauses of up to 20 s. Here 4 s.
- A SuperNode that was killed is refused until its last heartbeat is 60 s old. Here 20 s.
- A SuperNode that gives up lives on without a connection. Here it ends.
- A SuperNode misses an app that was killed only 60 s after its last heartbeat. Here 30 s.
- A SuperNode waits for ever for an answer if the app was killed while it took the message or gave
  the answer. Here it ends with the message's lifetime, and is started again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from fedtt_lightning import __version__
from fedtt_lightning.silo.flower_app import write_app

PARENT_VARIABLE = "FEDTT_PARENT"
_POLL = 1.0
_RETRY = 4  # seconds
_HEARTBEAT = 10  # seconds, the least that Flower allows
_PATIENCE = 1  # times 30 s; an app's heart beats each 23 s at the latest
_SLACK = 5.0  # seconds that a message is waited for beyond its lifetime
_ESTABLISHED = "01"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the SuperLink or SuperNode that the first argument names, for as long as its parent."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT_VARIABLE]):
        return  # it died before it could be watched
    which = sys.argv.pop(1)
    (run_superlink if which == "superlink" else run_supernode)()


def run_superlink() -> None:
    """Run Flower's SuperLink with its inner interfaces closed to all but this user."""
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink
    from starlette.middleware import Middleware

    extensions.get_middleware = lambda: (Middleware(OwnProcessesOnly),)
    flower_superlink()


class OwnProcessesOnly:
    """ASGI middleware that lets others reach only the paths that are for silos."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or answer 403."""
        fleet = scope["type"] == "http" and scope["path"].startswith("/v1/fleet/")
        if scope["type"] == "lifespan" or fleet or _is_own(scope["client"], scope["server"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})


def _is_own(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Tell whether the client's end of a connection is a socket of this user on this machine."""
    wanted = (_address(*client), _address(*server), _ESTABLISHED, str(os.getuid()))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            _, local, remote, state, _, _, _, uid, *_ = row.split()
            if (_normal(local), _normal(remote), state, uid) == wanted:
                return True
    return False


def _address(host: str, port: int) -> tuple[str, int]:
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address), port


def _normal(entry: str) -> tuple[str, int]:
    """Read an address of /proc/net/tcp: words of 4 bytes in the machine's order, then the port."""
    host, port = entry.split(":")
    words = [int(host[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(host), 8)]
    return _address(str(ip_address(b"".join(words))), int(port, 16))


def run_supernode() -> None:
    """Run Flower's SuperNode, which starts no app but ours."""
    from flwr.supercore import heartbeat
    from flwr.supercore.corestate import in_memory_corestate
    from flwr.supercore.retry import http_retry
    from flwr.supernode import fleet_http_connection
    from flwr.supernode import main as runtime
    from flwr.supernode import start_client_internal as internal
    from flwr.supernode.cli import flower_supernode

    with TemporaryDirectory() as folder:
        own = _digest(write_app(Path(folder)))
    fuse = internal.get_fused_config_from_fab

    def fuse_own(content: bytes, run: Any) -> Any:  # called before an app is stored or run
        if sha256(content).hexdigest() != own:
            print(f"the server's app is not that of fedtt-lightning {__version__}", flush=True)
            os._exit(1)
        return fuse(content, run)

    internal.get_fused_config_from_fab = fuse_own
    create = runtime.create_app
    runtime.create_app = lambda *args, **options: OwnProcessesOnly(create(*args, **options))
    internal.time = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, _POLL)))
    http_retry.MAX_RETRY_DELAY = _RETRY
    pauses = heartbeat.exponential
    heartbeat.exponential = lambda max_delay: pauses(max_delay=min(max_delay, _RETRY))
    heartbeat.HEARTBEAT_DEFAULT_INTERVAL = _HEARTBEAT
    fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL = _HEARTBEAT
    in_memory_corestate.HEARTBEAT_PATIENCE = _PATIENCE
    push = internal._push_messages

    def push_in_time(state: Any, **more: Any) -> None:  # called once a message was taken
        lifetime = max(entry.message.metadata.ttl for entry in state.msg_store.values())
        timer = threading.Timer(lifetime + _SLACK, os._exit, [1])
        timer.daemon = True
        timer.start()
        push(state=state, **more)
        timer.cancel()

    internal._push_messages = push_in_time
    flower_supernode()
    os._exit(1)  # it returns only when it gave up, and its other threads would keep it alive


def _digest(folder: Path) -> str:
    from flwr.cli.build import build_fab_from_disk

    return sha256(build_fab_from_disk(folder)).hexdigest()


if __name__ == "__main__":
    main()
