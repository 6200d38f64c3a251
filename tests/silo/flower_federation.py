"""A federation on loopback of Flower's real processes, whose silos' workers are this process's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

from fedtt_lightning.silo.certificates import write_certificates, write_node_key
from fedtt_lightning.silo.flower_processes import free_port
from fedtt_lightning.silo.flower_transport import FlowerTransport
from fedtt_lightning.silo.local_socket import LocalServer
from fedtt_lightning.silo.super_node import SuperNode
from fedtt_lightning.silo.transport import Failure

LIMIT = 1 << 20
SILOS = range(3)


class Worker:
    """A silo's worker that replies with its name and the payload backwards.

    A payload that starts with `wait` gets its reply when `go` is set, `long` one that is too long.

    Attributes:
        answer: gives other replies, if it is set; None hangs up.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer: Callable[[bytes], bytes | None] = self.echo
        self.go = threading.Event()
        self.waits = threading.Event()
        self._end = threading.Event()
        self._server = LocalServer(path, LIMIT)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            request = self._server.receive(0.2)
            if request is not None:
                if (reply := self.answer(request.payload)) is None:
                    request._connection.close()
                else:
                    request.reply(reply)

    def echo(self, payload: bytes) -> bytes:
        if payload.startswith(b"wait"):
            self.waits.set()
            self.go.wait(60)
        more = bytes(LIMIT) if payload == b"long" else b""
        return self.path.name.encode() + payload[::-1] + more

    def close(self) -> None:
        self.go.set()
        self._end.set()
        self._thread.join(10)
        self._server.close()


class Federation:
    """Silos whose keys are registered, and files of one more whose key is not."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        (folder / "other").mkdir()
        write_certificates(folder, ["127.0.0.1"], 1)
        write_certificates(folder / "other", ["127.0.0.1"], 1)
        for silo in (*SILOS, len(SILOS)):
            write_node_key(folder / f"silo-{silo}")
        self.port = free_port()
        self.transport = self.start_transport()
        stack.callback(lambda: self.transport.close())
        self.workers = [Worker(folder / "own" / str(silo)) for silo in SILOS]
        for worker in self.workers:
            stack.callback(worker.close)
        self.super_nodes = [self.start_super_node(silo) for silo in SILOS]
        for super_node in self.super_nodes:
            stack.callback(super_node.close)
        self.nodes = {silo: node for node, silo in self.transport.silos.items()}
        self.wait_for(lambda: len(self.transport.nodes()) == len(SILOS))

    def start_transport(self) -> FlowerTransport:
        files = [self.folder / name for name in ("ca.crt", "server.crt", "server.key")]
        keys = [self.folder / f"silo-{silo}.pub" for silo in SILOS]
        return FlowerTransport("127.0.0.1", self.port, self.folder / "flower", *files, keys, LIMIT)

    def start_super_node(self, silo: int, root: str = "ca.crt", patience: float = 60) -> SuperNode:
        return SuperNode(
            f"127.0.0.1:{self.port}",
            self.folder / root,
            self.folder / f"silo-{silo}",
            self.folder / "own" / str(silo),
            self.folder / f"flower-{silo}-{root[:2]}",
            2 * LIMIT,  # as silos may be set up that mean ill
            patience,
        )

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        end = monotonic() + seconds
        while not condition():
            assert monotonic() < end, (self.folder / "flower/superlink.log").read_text()[-3000:]
            sleep(0.2)

    def exchange(self, payloads: dict[int, bytes], deadline: float) -> dict[int, bytes | Failure]:
        """Exchange by the silos' numbers, and check that each answers once."""
        sent = {self.nodes[silo]: payload for silo, payload in payloads.items()}
        answers = list(self.transport.exchange(sent, deadline))
        assert len(dict(answers)) == len(answers)
        return {self.transport.silos[node]: answer for node, answer in answers}
