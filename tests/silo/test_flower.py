"""A federation on loopback of Flower's real processes, whose silos' workers echo."""

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import pytest

pytest.importorskip("flwr")

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.certificates import write_certificates, write_node_key
from fedtt_lightning.silo.flower_processes import free_port
from fedtt_lightning.silo.flower_transport import FlowerTransport
from fedtt_lightning.silo.local_socket import LocalServer
from fedtt_lightning.silo.super_node import SuperNode
from fedtt_lightning.silo.transport import Failure

pytestmark = [pytest.mark.flower, pytest.mark.processes]

LIMIT = 1 << 20
DEADLINE = 60.0  # of exchanges that are expected to be whole: a bound, not a measurement


class Worker:
    """A silo's worker that replies with its name and the payload backwards.

    A payload that starts with `wait` gets its reply when `go` is set, `long` one that is too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
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
                if request.payload.startswith(b"wait"):
                    self.waits.set()
                    self.go.wait(60)
                more = bytes(LIMIT) if request.payload == b"long" else b""
                request.reply(self.path.name.encode() + request.payload[::-1] + more)

    def close(self) -> None:
        self.go.set()
        self._end.set()
        self._thread.join(10)
        self._server.close()


class Federation:
    """Two silos whose keys are registered, and files of a third whose key is not."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        (folder / "other").mkdir()
        write_certificates(folder, ["127.0.0.1"], 1)
        write_certificates(folder / "other", ["127.0.0.1"], 1)
        for silo in range(3):
            write_node_key(folder / f"silo-{silo}")
        self.port = free_port()
        self.transport = self.start_transport()
        stack.callback(lambda: self.transport.close())
        self.workers = [Worker(folder / "own" / str(silo)) for silo in range(2)]
        for worker in self.workers:
            stack.callback(worker.close)
        self.super_nodes = [self.start_super_node(silo) for silo in range(2)]
        for super_node in self.super_nodes:
            stack.callback(super_node.close)
        self.nodes = {silo: node for node, silo in self.transport.silos.items()}
        self.wait_for(lambda: len(self.transport.nodes()) == 2)

    def start_transport(self) -> FlowerTransport:
        files = [self.folder / name for name in ("ca.crt", "server.crt", "server.key")]
        keys = [self.folder / f"silo-{silo}.pub" for silo in range(2)]
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

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
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


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    with TemporaryDirectory() as name, ExitStack() as stack:
        yield Federation(Path(name), stack)


def test_registered_silos_answer(federation: Federation) -> None:
    assert sorted(federation.transport.nodes()) == sorted(federation.nodes.values())
    payloads = {0: os.urandom(LIMIT - 1), 1: b""}
    answers = federation.exchange(payloads, DEADLINE)
    assert answers == {0: b"0" + payloads[0][::-1], 1: b"1"}


def test_silos_that_are_not_let_in(federation: Federation) -> None:
    with closing(federation.start_super_node(2)) as stranger:
        federation.wait_for(lambda: stranger._process.has_said("[code: 2004]"))
        stranger._give_up_after = 0.0
        reason = r"no connection to 127.0.0.1:\d+ for 0 s \(the server does not know silo.key"
        with pytest.raises(FederationError, match=reason):
            stranger.check()
    with closing(federation.start_super_node(0, root="other/ca.crt")) as deceived:
        reason = "cannot join .*: silo.root_certificate does not fit the server's certificate"
        with pytest.raises(FederationError, match=reason):
            federation.wait_for(lambda: deceived.check() or deceived.is_connected())
    assert len(federation.transport.nodes()) == 2


def test_an_absent_worker_is_a_failure_of_its_silo_alone(federation: Federation) -> None:
    federation.workers[0].close()
    answers = federation.exchange({0: b"abc", 1: b"abc"}, DEADLINE)
    assert isinstance(answers[0], Failure) and "no process listens on" in answers[0].reason
    assert answers[1] == b"1cba"
    federation.workers[0] = Worker(federation.workers[0].path)
    assert federation.exchange({0: b"abc"}, DEADLINE) == {0: b"0cba"}


def test_an_answer_that_is_too_long_is_a_failure_of_its_silo_alone(federation: Federation) -> None:
    answers = federation.exchange({0: b"long", 1: b"abc"}, DEADLINE)
    reason = f"its answer has {LIMIT + 5} bytes, but at most {LIMIT} may come"
    assert answers == {0: Failure(reason), 1: b"1cba"}


def test_a_late_answer_is_not_taken_for_the_next(federation: Federation) -> None:
    sent = {federation.nodes[0]: b"wait", federation.nodes[1]: b"abc"}
    answers = federation.transport.exchange(sent, DEADLINE)
    assert next(answers) == (federation.nodes[1], b"1cba")
    federation.wait_for(federation.workers[0].waits.is_set)
    answers.close()
    federation.workers[0].go.set()
    assert federation.exchange({0: b"next", 1: b"next"}, DEADLINE) == {0: b"0txen", 1: b"1txen"}


def test_a_relay_and_a_super_node_that_died_are_replaced(federation: Federation) -> None:
    super_node = federation.super_nodes[0]
    super_node._process.kill()
    super_node.check()
    assert not super_node.is_connected()
    federation.workers[1].go.clear()
    sent = {federation.nodes[1]: b"wait for the kill"}
    threading.Timer(3, _kill_relay, [federation.transport]).start()
    ((node, failure),) = list(federation.transport.exchange(sent, DEADLINE))
    assert node == federation.nodes[1]
    assert isinstance(failure, Failure) and "relay ended" in failure.reason
    federation.workers[1].go.set()
    federation.wait_for(lambda: super_node.check() or super_node.is_connected())
    assert federation.exchange({0: b"abc", 1: b"abc"}, DEADLINE) == {0: b"0cba", 1: b"1cba"}


def test_a_port_in_use(federation: Federation) -> None:
    with pytest.raises(ConfigError, match=rf"^serve.port: cannot listen on .*:{federation.port} "):
        federation.start_transport()


def test_a_killed_super_link_ends_the_exchange_and_can_be_started_again(
    federation: Federation,
) -> None:
    federation.workers[0].go.clear()
    answers = federation.transport.exchange({federation.nodes[0]: b"wait"}, DEADLINE)
    threading.Timer(2, federation.transport._link._process.kill).start()
    with pytest.raises(FederationError, match=r"Flower's SuperLink ended .*: see .*superlink.log"):
        list(answers)
    federation.workers[0].go.set()
    federation.transport.close()
    federation.wait_for(lambda: not processes_with(str(federation.port)))
    federation.transport = federation.start_transport()  # on the same port, which is free
    federation.nodes = {silo: node for node, silo in federation.transport.silos.items()}
    federation.wait_for(
        lambda: _check(federation.super_nodes) and len(federation.transport.nodes()) == 2
    )


def test_a_silo_runs_no_app_but_its_own(federation: Federation) -> None:
    app = federation.folder / "flower/app"
    project = (app / "pyproject.toml").read_text()
    (app / "pyproject.toml").write_text(project.replace("Carries", "Steals"))
    _kill_relay(federation.transport)
    list(federation.transport.exchange({federation.nodes[0]: b"abc"}, 1))  # starts the other app
    assert federation.exchange({0: b"abc"}, 8) == {}
    with pytest.raises(FederationError, match=r"cannot join .*: install one version"):
        federation.wait_for(lambda: federation.super_nodes[0].check() is not None)
    federation.super_nodes[1].check()


def processes_with(port: str) -> list[str]:
    """Return the command lines of living SuperLinks and relays at `port`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if port in line and ("flower_main superlink" in line or "flwr-serverapp" in line):
                found.append(line)
    return found


def _check(super_nodes: list[SuperNode]) -> bool:
    for super_node in super_nodes:
        super_node.check()
    return all(super_node.is_connected() for super_node in super_nodes)


def _kill_relay(transport: FlowerTransport) -> None:
    connection = transport._connection
    assert connection is not None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    with suppress(ProcessLookupError):
        os.kill(struct.unpack("3i", raw)[0], signal.SIGKILL)
