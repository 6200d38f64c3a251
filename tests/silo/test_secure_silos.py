"""Real silos and their server, who learns sums alone, give what a simulation of them gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("Crypto")

from fedtt_lightning.federation import ClientFailures
from fedtt_lightning.federation.failures import Outcome
from silo.forks import Forks, wait_for
from silo.secure_toy import SILOS, toy
from toy_run import outcome

pytestmark = pytest.mark.processes
ONLY_SERVED = ("comm/wire_", "fed/clients_dropped", "fed/clients_late", "secure/")


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks("silo.secure_toy", "fedtt_lightning.silo.secure_collection")
    yield forks
    forks.close()


class Federation:
    """The processes of a server and its silos."""

    def __init__(self, forks: Forks, folder: Path, sockets: Path) -> None:
        self.forks, self.folder = forks, folder
        self.sockets = [f"{sockets}/own/{client}" for client in SILOS]

    def silo(self, client: int, **options: Any) -> int:
        options |= {"client": client, "sockets": self.sockets}
        folder = self.folder / f"silo-{client}"
        return self.forks.start("silo.secure_toy:run_silo", folder, **options)

    def serve(self, **options: Any) -> int:
        options |= {"sockets": self.sockets}
        return self.forks.start("silo.secure_toy:run_server", self.folder / "server", **options)

    def outcome(self) -> Any:
        return json.loads((self.folder / "server" / "outcome").read_text())


@pytest.fixture
def federation(forks: Forks, tmp_path: Path) -> Iterator[Federation]:
    with TemporaryDirectory() as sockets:  # short enough wherever pytest keeps its own
        yield Federation(forks, tmp_path, Path(sockets))


def simulated(folder: Path, **options: Any) -> Any:
    trainer, module, data, record = toy(folder / "simulated", **options)
    trainer.fit(module, datamodule=data)
    return json.loads(json.dumps(outcome(module, record)))


def same(served: Any, wanted: Any) -> None:
    assert served["state"] == wanted["state"]
    assert "secure/quantization_error" in wanted["metrics"].keys() - served["metrics"].keys()
    metrics = [
        {k: v for k, v in found["metrics"].items() if not k.startswith(ONLY_SERVED)}
        for found in (served, wanted)
    ]
    assert metrics[0] == metrics[1]


def test_the_adapter_is_that_of_the_simulation(forks: Forks, federation: Federation) -> None:
    """Also if the server is killed when it has the sum of a round, which it then asks for again."""
    silos = [federation.silo(client) for client in SILOS]
    assert forks.wait(federation.serve(kill=["after", 1])) == -SIGKILL
    assert forks.wait(federation.serve()) == 0
    assert [forks.wait(silo) for silo in silos] == [0, 0, 0, 0]
    same(federation.outcome(), simulated(federation.folder))
    note = json.loads((federation.folder / "silo-2" / "secure-sum.json").read_text())
    assert (note["round"], note["clients"]) == (2, [0, 1, 2, 3])


def test_noise_of_central_privacy_is_added_before_the_mask(
    forks: Forks, federation: Federation
) -> None:
    silos = [federation.silo(client, private=True) for client in SILOS]
    assert forks.wait(federation.serve(private=True)) == 0
    assert [forks.wait(silo) for silo in silos] == [0, 0, 0, 0]
    same(federation.outcome(), simulated(federation.folder, private=True))


class Once(ClientFailures):
    """Client 1 drops out of round 1."""

    def outcome(self, experiment: int, round: int, client: int, num_batches: int) -> Outcome:
        return "dropped" if (round, client) == (1, 1) else "done"


def test_silos_that_vanish_between_stages(forks: Forks, federation: Federation) -> None:
    """Client 1 before it masks its update; client 3 in the last round after that, so it counts."""
    kills = {1: [2, 1], 3: [3, 2]}
    silos = [federation.silo(client, kill=kills.get(client)) for client in SILOS]
    server = federation.serve(pause=2)
    assert forks.wait(silos[1]) == -SIGKILL
    silos[1] = federation.silo(1)
    wait_for(federation.sockets[1])
    (federation.folder / "server" / "go").touch()
    assert forks.wait(server) == 0
    assert [forks.wait(silo) for silo in silos] == [0, 0, 0, -SIGKILL]
    served = federation.outcome()
    assert served["state"] == simulated(federation.folder, failures=Once())["state"]
    assert served["metrics"]["fed/clients"] == 4


class Half(ClientFailures):
    """Nobody answers in round 1, and clients 1 and 2 never again."""

    def outcome(self, experiment: int, round: int, client: int, num_batches: int) -> Outcome:
        return "dropped" if round == 1 or (round > 1 and client in (1, 2)) else "done"


def test_a_round_without_a_sum_changes_nothing(forks: Forks, federation: Federation) -> None:
    """Two of four vanish, and three are needed; in the next round there are but two."""
    kills = {1: [2, 1], 2: [1, 1]}
    silos = [federation.silo(client, kill=kills.get(client)) for client in SILOS]
    assert forks.wait(federation.serve()) == 0
    assert [forks.wait(silo) for silo in silos] == [0, -SIGKILL, -SIGKILL, 0]
    wanted = simulated(federation.folder, failures=Half())
    assert federation.outcome()["state"] == wanted["state"]
    assert "needs 3 clients, but only 2" in (federation.folder / "server" / "log").read_text()
