"""A server and silos, each a process of its own, give what the simulation of them gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from fedtt_lightning.federation import ClientFailures
from fedtt_lightning.federation.failures import Outcome
from silo.forks import Forks, wait_for
from silo.toy_server import toy
from toy_run import outcome

pytestmark = pytest.mark.processes
SILOS = range(4)
ONLY_SERVED = ("comm/wire_", "fed/clients_dropped", "fed/clients_late", "dp/silo_")


class Federation:
    """A server's and four silos' processes of the toy run."""

    def __init__(self, forks: Forks, folder: Path, sockets: Path, **options: bool) -> None:
        self.forks, self.folder, self.options = forks, folder, options
        self.sockets = [f"{sockets}/own/{client}" for client in SILOS]

    def silo(self, client: int, **options: Any) -> int:
        options |= {"client": client, "clients": len(SILOS), "socket": self.sockets[client]}
        folder = self.folder / f"silo-{client}"
        return self.forks.start("silo.toy_silo:run_silo", folder, **options, **self.options)

    def serve(self, **options: Any) -> int:
        options |= {"sockets": self.sockets}
        folder = self.folder / "server"
        return self.forks.start("silo.toy_server:run_server", folder, **options, **self.options)

    def ends(self, process: int) -> int:
        return self.forks.wait(process)

    def outcome(self) -> Any:
        return json.loads((self.folder / "server" / "outcome").read_text())


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder whose name is short enough wherever pytest keeps its own."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def simulated(folder: Path, **options: Any) -> Any:
    options = {"private": False, "upload": False, **options}
    trainer, module, data, record = toy(folder / "simulated", **options)
    trainer.fit(module, datamodule=data)
    return json.loads(json.dumps(outcome(module, record)))


def same(served: Any, wanted: Any) -> None:
    assert served["state"] == wanted["state"]
    metrics = {k: v for k, v in served["metrics"].items() if not k.startswith(ONLY_SERVED)}
    assert metrics == {k: v for k, v in wanted["metrics"].items() if not k.startswith(ONLY_SERVED)}


@pytest.mark.parametrize(
    "options", [{}, {"upload": True}, {"private": True}], ids=["fedtt_plus", "int8", "local_dp"]
)
def test_silos_train_what_clients_of_a_simulation_train(
    forks: Forks, tmp_path: Path, sockets: Path, options: dict[str, bool]
) -> None:
    federation = Federation(forks, tmp_path, sockets, **options)
    silos = [federation.silo(client) for client in SILOS]
    assert federation.ends(federation.serve()) == 0
    assert [federation.ends(silo) for silo in silos] == [0, 0, 0, 0]
    served = federation.outcome()
    same(served, simulated(tmp_path, **options))
    if "private" in options:
        for kind in ("max", "mean"):
            spent = served["metrics"][f"dp/epsilon_{kind}"]
            assert served["metrics"][f"dp/silo_epsilon_{kind}"] == spent


def test_a_killed_server_goes_on_with_the_same_result(
    forks: Forks, tmp_path: Path, sockets: Path
) -> None:
    federation = Federation(forks, tmp_path, sockets, upload=True)
    silos = [federation.silo(client) for client in SILOS]
    for kill in (["after", 0], ["between", 1], ["before", 1], ["after", 2]):
        assert federation.ends(federation.serve(kill=kill)) == -SIGKILL
    assert federation.ends(federation.serve()) == 0
    assert [federation.ends(silo) for silo in silos] == [0, 0, 0, 0]
    same(federation.outcome(), simulated(tmp_path, upload=True))


@pytest.mark.parametrize("kill", [["visit", 1], ["answer", 1], ["answer", 2]])  # of 3 rounds
def test_a_killed_silo_that_is_started_again_changes_nothing(
    forks: Forks, tmp_path: Path, sockets: Path, kill: list[Any]
) -> None:
    federation = Federation(forks, tmp_path, sockets, private=True)
    silos = [federation.silo(client, kill=kill if client == 2 else None) for client in SILOS]
    server = federation.serve()
    assert federation.ends(silos[2]) == -SIGKILL
    silos[2] = federation.silo(2)
    assert federation.ends(server) == 0
    assert [federation.ends(silo) for silo in silos] == [0, 0, 0, 0]
    same(federation.outcome(), simulated(tmp_path, private=True))


class Once(ClientFailures):
    """Client 1 drops out of round 1."""

    def outcome(self, experiment: int, round: int, client: int, num_batches: int) -> Outcome:
        return "dropped" if (round, client) == (1, 1) else "done"


def test_a_silo_killed_in_its_visit_is_dropped_and_comes_back(
    forks: Forks, tmp_path: Path, sockets: Path
) -> None:
    federation = Federation(forks, tmp_path, sockets)
    silos = [
        federation.silo(client, kill=["visit", 1] if client == 1 else None) for client in SILOS
    ]
    server = federation.serve(pause=2, grace=0)
    assert federation.ends(silos[1]) == -SIGKILL
    silos[1] = federation.silo(1)
    wait_for(federation.sockets[1])
    (tmp_path / "server" / "go").touch()
    assert federation.ends(server) == 0
    assert [federation.ends(silo) for silo in silos] == [0, 0, 0, 0]
    served = federation.outcome()
    assert served["state"] == simulated(tmp_path, failures=Once())["state"]
    assert served["metrics"]["fed/clients"] == 4
