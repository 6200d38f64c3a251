"""A silo behind a network that loses all for a while, without a word to either side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import pytest

pytest.importorskip("flwr")

from silo.forks import Forks
from silo.gate import PATIENCE, open_gate, wait_for_visit
from silo.network import Network
from silo.written_federation import COMMANDS, WrittenFederation

pytestmark = [pytest.mark.flower, pytest.mark.processes]

ROUNDS = 4
TRAINED = "round,client\n1,0\n1,1\n2,0\n3,0\n4,0\n4,1\n"


@pytest.fixture
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(stack)


@pytest.fixture
def federation(
    network: Network, tiny_backbone: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WrittenFederation]:
    """A server with a silo on its host, and a silo on the other one."""
    monkeypatch.setenv("FLWR_LOG_LEVEL", "DEBUG")  # or it does not tell of heartbeats
    near, far = map(network.host, (network.near, network.far))
    hosts = {"federation": near, "silo-0": near, "silo-1": far}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        forks = Forks(*COMMANDS)
        stack.callback(forks.close)
        out = Path(folder) / "out"
        yield WrittenFederation(out, forks, tiny_backbone, 2, ROUNDS, network.near, hosts)


def test_a_silo_that_is_cut_off_is_left_out_until_it_is_back(
    network: Network, federation: WrittenFederation
) -> None:
    gates = [federation.folder / f"gate-{silo}" for silo in range(2)]
    log = federation.log("federation")
    server = federation.serve("--serve.grace=1")
    silos = [federation.silo(k, *_with_gate(gate)) for k, gate in enumerate(gates)]
    open_gate(gates[0], 0, 1)

    # For less time than Flower takes to miss a silo: nothing is lost.
    wait_for_visit(gates[1], 0)
    network.cut()
    open_gate(gates[1], 0)
    sleep(3)
    network.heal()
    wait_for_visit(gates[1], 1)

    # Until it is missed.
    network.cut()
    open_gate(gates[1], 1, 3)
    trace = federation.folder / "trace.csv"
    trace.write_text(TRAINED)
    sampler = ("--federation.sampler=TraceSampler", f"--federation.sampler.file={trace}")
    fit = federation.fit(*sampler)
    federation.wait_for("client 1 is dropped", log, times=2)
    network.heal()
    _hear_of(network.far, federation)
    open_gate(gates[0], 2)
    wait_for_visit(gates[1], 3)
    open_gate(gates[0], 3)

    assert federation.ends(server) == 0
    assert [federation.ends(silo) for silo in silos] == [0, 0]
    assert federation.logged("server", "fed/clients_dropped") == [0, 1, 1, 0]
    assert federation.ends(fit) == 0
    federation.assert_same_weights()


def _with_gate(folder: Path) -> tuple[str, str]:
    return "--trainer.callbacks+=silo.gate.Gate", f"--trainer.callbacks.folder={folder}"


def _hear_of(address: str, federation: WrittenFederation) -> None:
    """Return when the server has had a further sign of life from this address."""
    before, end = _heartbeats(address, federation), monotonic() + PATIENCE
    while _heartbeats(address, federation) == before:
        assert monotonic() < end
        sleep(0.1)


def _heartbeats(address: str, federation: WrittenFederation) -> int:
    lines = federation.link.read_text().splitlines()
    return sum(address in line and "send-node-heartbeat" in line for line in lines)
