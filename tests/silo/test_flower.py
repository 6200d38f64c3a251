"""Over Flower's real processes: who is let in, what becomes of payloads, and what may die."""

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

pytest.importorskip("flwr")

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.messages import Stage, Update, decode, encode
from fedtt_lightning.silo.secure_answers import SecureAnswers
from fedtt_lightning.silo.secure_collection import SecureCollection
from fedtt_lightning.silo.secure_letters import write_integers
from fedtt_lightning.silo.super_node import SuperNode
from fedtt_lightning.silo.transport import Failure
from silo.flower_federation import LIMIT, SILOS, Federation, Worker
from silo.processes import processes_of

pytestmark = [pytest.mark.flower, pytest.mark.processes]

DEADLINE = 120.0  # of exchanges that are expected to be whole: a bound, not a measurement


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
    with closing(federation.start_super_node(len(SILOS))) as stranger:
        federation.wait_for(lambda: stranger._process.has_said("[code: 2004]"))
        stranger._give_up_after = 0.0
        reason = r"no connection to 127.0.0.1:\d+ for 0 s \(the server does not know silo.key"
        with pytest.raises(FederationError, match=reason):
            stranger.check()
    with closing(federation.start_super_node(0, root="other/ca.crt")) as deceived:
        reason = "cannot join .*: silo.root_certificate does not fit the server's certificate"
        with pytest.raises(FederationError, match=reason):
            federation.wait_for(lambda: deceived.check() or deceived.is_connected())
    assert len(federation.transport.nodes()) == len(SILOS)


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


def test_a_secure_sum_survives_a_silo_that_drops_out(federation: Federation) -> None:
    """Silo 2 vanishes when it is asked for its masked values, the pairwise masks of which stay."""
    rows = np.random.default_rng(0).integers(0, 2**32, (3, 50), dtype=np.uint64)

    def silo(client: int) -> Callable[[bytes], bytes | None]:
        half = SecureAnswers(client, 3, 32, 2, federation.folder / f"note-{client}")
        update = Update("run", 0, client, 5, None, 1.0, None, write_integers(rows[client], 32))

        def answer(payload: bytes) -> bytes | None:
            if payload == b"train":
                return half.begin(encode(update))
            stage = decode(payload, LIMIT)
            assert isinstance(stage, Stage)
            return None if (client, stage.stage) == (2, 2) else encode(half.answer(stage))

        return answer

    for client, worker in enumerate(federation.workers):
        worker.answer = silo(client)
    keys = {
        client: decode(data, LIMIT).payload  # type: ignore[arg-type, union-attr]
        for client, data in federation.exchange(dict.fromkeys(SILOS, b"train"), DEADLINE).items()
    }
    collection = SecureCollection(federation.transport, federation.nodes, "run", 0, 32, 50, 2)
    total = collection.run(keys, DEADLINE)
    for worker in federation.workers:
        worker.answer = worker.echo
    assert total.tolist() == ((rows[0] + rows[1]) % 2**32).tolist()
    assert collection.members == [0, 1]
    assert "hung up" in collection.lost[2]


def test_a_late_answer_is_not_taken_for_the_next(federation: Federation) -> None:
    sent = {federation.nodes[0]: b"wait", federation.nodes[1]: b"abc"}
    answers = federation.transport.exchange(sent, DEADLINE)
    assert next(answers) == (federation.nodes[1], b"1cba")
    federation.wait_for(federation.workers[0].waits.is_set)
    answers.close()
    federation.workers[0].go.set()
    assert federation.exchange({0: b"next", 1: b"next"}, DEADLINE) == {0: b"0txen", 1: b"1txen"}


def test_an_app_a_relay_and_a_super_node_that_died_are_replaced(federation: Federation) -> None:
    super_node, worker = federation.super_nodes[0], federation.workers[1]
    super_node._process.kill()
    super_node.check()
    assert not super_node.is_connected()
    for kill, reason in ((_kill_app, "ClientApp stopped"), (_kill_relay, "relay ended")):
        worker.go.clear()
        worker.waits.clear()
        threading.Thread(target=_when_it_waits, args=(worker, kill, federation)).start()
        failure = federation.exchange({1: b"wait for the kill"}, DEADLINE)[1]
        assert isinstance(failure, Failure) and reason in failure.reason
        worker.go.set()
        assert federation.exchange({1: b"abc"}, DEADLINE) == {1: b"1cba"}
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
    federation.wait_for(lambda: not processes_of(federation.folder / "flower"))
    federation.transport = federation.start_transport()  # on the same port, which is free
    federation.nodes = {silo: node for node, silo in federation.transport.silos.items()}
    federation.wait_for(
        lambda: _check(federation.super_nodes) and len(federation.transport.nodes()) == len(SILOS)
    )


def test_a_silo_runs_no_app_but_its_own(federation: Federation) -> None:
    app = federation.folder / "flower/app"
    project = (app / "pyproject.toml").read_text()
    (app / "pyproject.toml").write_text(project.replace("Carries", "Steals"))
    _kill_relay(federation)
    list(federation.transport.exchange({federation.nodes[0]: b"abc"}, 1))  # starts the other app
    assert federation.exchange({0: b"abc"}, 8) == {}
    with pytest.raises(FederationError, match=r"cannot join .*: install one version"):
        federation.wait_for(lambda: federation.super_nodes[0].check() is not None)
    federation.super_nodes[1].check()


def _check(super_nodes: list[SuperNode]) -> bool:
    for super_node in super_nodes:
        super_node.check()
    return all(super_node.is_connected() for super_node in super_nodes)


def _when_it_waits(
    worker: Worker, kill: Callable[[Federation], None], federation: Federation
) -> None:
    assert worker.waits.wait(DEADLINE)
    kill(federation)


def _kill_app(federation: Federation) -> None:
    """Kill the app that hands silo 1's worker a message."""
    (app,) = processes_of(federation.folder / "flower-1-ca", "flwr-clientapp")
    os.kill(app, signal.SIGKILL)


def _kill_relay(federation: Federation) -> None:
    connection = federation.transport._connection
    assert connection is not None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    with suppress(ProcessLookupError):
        os.kill(struct.unpack("3i", raw)[0], signal.SIGKILL)
