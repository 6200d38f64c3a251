"""A silo answers a round with its client's visit, once and for all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory
from time import sleep

import pytest
import torch
from opacus.accountants import RDPAccountant

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterState, Int8, seed_for
from fedtt_lightning.federation.codecs import transmit
from fedtt_lightning.silo.messages import Done, Hello, Here, Refused, Update
from fedtt_lightning.silo.payloads import read_update
from silo.asking import EXPERIMENT, PlainServer
from silo.forks import Forks

pytestmark = pytest.mark.processes
SILO = "silo.toy_silo:run_silo"


@pytest.fixture
def socket() -> Iterator[str]:
    """A path that is short enough wherever pytest keeps its own folders."""
    with TemporaryDirectory() as folder:
        yield f"{folder}/own/s"


def _check(update: object, server: PlainServer, round: int, client: int = 1) -> None:
    assert isinstance(update, Update)
    assert (update.run, update.round, update.client) == (server.run, round, client)
    weights = AdapterState.from_bytes(update.payload, server.travelling(round)).tensors()
    for name, value in server.expected(round, client).items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("own", [False, True])
def test_answers_what_a_plain_loop_trains(
    forks: Forks, socket: str, tmp_path: Path, own: bool
) -> None:
    server = PlainServer(socket)
    pid = forks.start(SILO, tmp_path, socket=socket, own=own)
    here = server.say(Hello("run-1"))
    assert isinstance(here, Here)
    assert (here.client, here.clients, here.examples) == (1, 4, 11)
    assert here.settings["trainer.max_epochs"] == "3 rounds"
    update = server.say(server.request(0))
    _check(update, server, 0)
    assert server.say(server.request(0)) == update
    # Round 1 is left out: an epoch without batches.
    request = server.request(2, changed=server.move(0.1))
    update = server.say(request)
    _check(update, server, 2)
    assert server.say(request) == update
    assert isinstance(server.say(server.request(1)), Refused)
    assert server.say(Done("run-1")) == Done("run-1")
    assert forks.wait(pid) == 0
    # Had it been killed after its last word, nobody would tell it again.
    assert forks.wait(forks.start(SILO, tmp_path, socket=socket, own=own)) == 0


@pytest.mark.parametrize("where", ["visit", "answer"])
def test_a_killed_silo_answers_when_asked_again(
    forks: Forks, socket: str, tmp_path: Path, where: str
) -> None:
    server = PlainServer(socket)
    pid = forks.start(SILO, tmp_path, socket=socket, kill=(where, 0))
    with pytest.raises(FederationError, match="hung up"):
        server.say(server.request(0))
    assert forks.wait(pid) == -SIGKILL
    # What is saved is not trained again: that would kill it.
    kill = None if where == "visit" else ("visit", 0)
    pid = forks.start(SILO, tmp_path, socket=socket, kill=kill)
    update = server.say(server.request(0))
    _check(update, server, 0)
    os.kill(pid, SIGKILL)
    forks.wait(pid)
    pid = forks.start(SILO, tmp_path, socket=socket, kill=("visit", 0))
    assert server.say(server.request(0)) == update
    _check(server.say(server.request(1, changed=server.move(0.1))), server, 1)
    assert "state of run run-1, not of run run-2" in str(server.say(Hello("run-2")))
    assert server.say(Refused("it is like that")) == Refused("it is like that")
    assert forks.wait(pid) == 2
    assert "error: it is like that" in (tmp_path / "log").read_text()


def test_privacy_is_charged_for_what_was_sent(forks: Forks, socket: str, tmp_path: Path) -> None:
    server = PlainServer(socket)
    forks.start(SILO, tmp_path, socket=socket, private=True, kill=("answer", 0))
    with pytest.raises(FederationError, match="hung up"):
        server.say(server.request(0))
    pid = forks.start(SILO, tmp_path, socket=socket, private=True)
    accountant = RDPAccountant()
    for round in (0, 2):  # of a run of three, the second of which goes without this silo
        update = server.say(server.request(round))
        assert isinstance(update, Update)
        for _ in range(2 * 3):  # passes over 11 examples in batches of 4
            accountant.step(noise_multiplier=0.7, sample_rate=1 / 3)
        assert update.epsilon == pytest.approx(accountant.get_epsilon(1e-5))
        os.kill(pid, SIGKILL)
        forks.wait(pid)
        pid = forks.start(SILO, tmp_path, socket=socket, private=True)
        assert server.say(server.request(round)) == update
        here = server.say(Hello("run-1"))
        assert isinstance(here, Here) and here.epsilon == update.epsilon
    server.say(Done("run-1"))
    assert forks.wait(pid) == 0


def test_a_codec_leaves_the_rest_with_the_silo(forks: Forks, socket: str, tmp_path: Path) -> None:
    server = PlainServer(socket)
    forks.start(SILO, tmp_path, socket=socket, upload=True, kill=("answer", 1))
    start, codec, kept = server.adapter, Int8(), None
    for round in (0, 1):
        if round == 1:
            with pytest.raises(FederationError, match="hung up"):
                server.say(server.request(1))
            pid = forks.start(SILO, tmp_path, socket=socket, upload=True)
        update = server.say(server.request(round))
        assert isinstance(update, Update)
        travels = server.travelling(round)
        weights = AdapterState.capture(server.expected(round), travels)
        key = seed_for(EXPERIMENT, "upload", round, 1)
        trained = weights.minus(start.select(travels))
        received, kept, _ = transmit(codec, trained, key, kept)
        read = read_update(update.payload, start, travels, travels, codec)
        torch.testing.assert_close(read.buffers, received.buffers, rtol=0, atol=1e-12)
    server.say(Done("run-1"))
    assert forks.wait(pid) == 0


def test_what_is_private_stays_with_the_silo(forks: Forks, socket: str, tmp_path: Path) -> None:
    server = PlainServer(socket, private="head")
    forks.start(SILO, tmp_path, socket=socket, personal=True, kill=("answer", 0))
    with pytest.raises(FederationError, match="hung up"):
        server.say(server.request(0))
    forks.start(SILO, tmp_path, socket=socket, personal=True, kill=("visit", 1))
    _check(server.say(server.request(0)), server, 0)
    with pytest.raises(FederationError, match="hung up"):
        server.say(server.request(2))
    pid = forks.start(SILO, tmp_path, socket=socket, personal=True)
    bad = server.request(2, changed=frozenset(server.adapter.schema.names))
    assert "is private here" in str(server.say(bad))
    _check(server.say(server.request(2)), server, 2)
    server.say(Done("run-1"))
    assert forks.wait(pid) == 0


def test_the_processes_of_a_silo_train_and_stop_together(
    forks: Forks, socket: str, tmp_path: Path
) -> None:
    server = PlainServer(socket)
    server.module.net.dropout.p = 0.0
    port = 20000 + os.getpid() % 10000  # below the range from which systems hand out ports
    process = "silo.toy_silo:run_process"
    pids = [
        forks.start(process, tmp_path, rank=rank, port=port, socket=socket) for rank in range(2)
    ]
    assert isinstance(server.say(Hello("run-1"), seconds=60), Here)
    sleep(2.5)  # so that they wait together for longer than a heartbeat
    for round in (0, 2):
        _check(server.say(server.request(round)), server, round, client=3)
        server.move(0.1)
    server.say(Done("run-1"))
    assert [forks.wait(pid) for pid in pids] == [0, 0]


def test_a_process_that_cannot_listen_tells_the_others(
    forks: Forks, socket: str, tmp_path: Path
) -> None:
    socket += "\0"  # an error of the system, which nobody foresaw
    port = 30000 + os.getpid() % 2000
    process = "silo.toy_silo:run_process"
    pids = [
        forks.start(process, tmp_path, rank=rank, port=port, socket=socket) for rank in range(2)
    ]
    assert [forks.wait(pid) for pid in pids] == [1, 2]
    assert "error: embedded null byte" in (tmp_path / "log").read_text()
