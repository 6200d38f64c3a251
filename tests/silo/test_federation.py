"""A new federation's own files and commands, over Flower with TLS, end where `fit` does."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import pytest
import torch

pytest.importorskip("flwr")

from fedtt_lightning.silo.envelope import pack
from fedtt_lightning.silo.flower_processes import free_port
from fedtt_lightning.silo.new_federation import write_federation
from silo.forks import Forks

pytestmark = [pytest.mark.flower, pytest.mark.processes]

SILOS = range(3)
ROUNDS = 3
LINK = "runs/server/flower/superlink.log"
PATIENCE = 120  # seconds: a bound, not a measurement
SMALL_RUN = {  # what the written configs say, and what they say here
    "max_epochs: 12 ": f"max_epochs: {ROUNDS} ",
    "rank: 4\n        bottleneck: 16": "rank: 16\n        bottleneck: 64",
    "    batch_size: 32\n": "    batch_size: 32\n    train_size: 240\n    validation_size: 100\n",
}


class Federation:
    """A folder that `new-federation` wrote, and the processes of its commands."""

    def __init__(self, folder: Path, forks: Forks, backbone: str) -> None:
        self.folder, self._forks = folder, forks
        write_federation(folder, len(SILOS), ["127.0.0.1"], free_port(), 1)
        for file in folder.glob("*.yaml"):
            text = file.read_text()
            for old, new in {**SMALL_RUN, "backbone: builtin ": f"backbone: {backbone} "}.items():
                assert old in text
                text = text.replace(old, new)
            file.write_text(text)
        text = (folder / "federation.yaml").read_text()
        (folder / "fit.yaml").write_text(text[text.index("seed_everything") :])

    def start(self, command: str, config: str, *more: str) -> int:
        """Run a command of the README in the folder."""
        args = [command, "--config", f"{config}.yaml", *more]
        return self._forks.start(
            "silo.forks:run_command", self.log(config).parent, args=args, cwd=str(self.folder)
        )

    def silo(self, number: int) -> int:
        return self.start("silo", f"silo-{number}")

    def ends(self, process: int) -> int:
        return self._forks.wait(process, PATIENCE)

    def log(self, config: str) -> Path:
        return self.folder / "logs" / config / "log"

    def wait_for(self, words: str, log: Path) -> None:
        end = monotonic() + PATIENCE
        while not log.exists() or words not in log.read_text():
            assert monotonic() < end, f"{log} does not say {words}"
            sleep(0.1)

    def weights(self, run: str) -> dict[str, torch.Tensor]:
        path = self.folder / "runs" / run / "checkpoints" / "last.ckpt"
        return dict(torch.load(path, weights_only=True)["state_dict"])

    def logged(self, run: str, metric: str) -> list[float]:
        """Return a metric of each round, of all processes of a run."""
        found: dict[int, float] = {}
        for path in sorted((self.folder / "runs" / run).glob("lightning_logs/*/metrics.csv")):
            with path.open() as file:
                rows = [row for row in csv.DictReader(file) if row.get(metric)]
            found |= {int(row["epoch"]): float(row[metric]) for row in rows}
        return [found[round] for round in range(ROUNDS)]


@pytest.fixture
def federation(tiny_backbone: str) -> Iterator[Federation]:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        modules = ("serve_command", "silo_command", "flower_transport", "super_node")
        forks = Forks(*(f"fedtt_lightning.silo.{name}" for name in modules), "transformers", "peft")
        stack.callback(forks.close)
        yield Federation(Path(folder) / "out", forks, tiny_backbone)


def test_killed_and_started_again_it_ends_where_fit_does(federation: Federation) -> None:
    server = federation.start("serve", "federation")
    federation.wait_for("POST /v1/control/start-run", federation.folder / LINK)  # knows all keys
    silos = [federation.silo(number) for number in SILOS]
    fit = federation.start("fit", "fit", "--trainer.default_root_dir", "runs/fit")
    federation.wait_for("round 1/", federation.log("federation"))
    os.kill(server, SIGKILL)
    os.kill(silos[1], SIGKILL)
    assert [federation.ends(server), federation.ends(silos[1])] == [-SIGKILL, -SIGKILL]
    silos[1], server = federation.silo(1), federation.start("serve", "federation")
    assert federation.ends(server) == 0
    assert [federation.ends(silo) for silo in silos] == [0, 0, 0]
    assert federation.ends(fit) == 0

    served, simulated = federation.weights("server"), federation.weights("fit")
    assert served.keys() == simulated.keys()
    for name, wanted in simulated.items():
        torch.testing.assert_close(served[name], wanted, rtol=0, atol=1e-6)
    for way in ("upload", "download"):
        wanted = federation.logged("fit", f"comm/{way}_bytes")
        assert federation.logged("server", f"comm/{way}_bytes") == wanted
        for sent, simulated_bytes in zip(
            federation.logged("server", f"comm/wire_{way}_bytes"), wanted, strict=True
        ):
            assert 1 < (sent + len(SILOS) * envelope_bytes()) / simulated_bytes <= 1.02


def envelope_bytes() -> int:
    """Return the bytes that a message of Flower has beside its payload."""
    from flwr.app import Message, Metadata
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    names = {"message_id": "0" * 64, "reply_to_message_id": "0" * 64, "group_id": ""}
    nodes = dict.fromkeys(("run_id", "src_node_id", "dst_node_id"), (1 << 63) - 1)
    times = {"created_at": 1.8e9, "ttl": 600.0, "message_type": "train"}
    message = Message(pack(bytes(50_000)), metadata=Metadata(**nodes, **names, **times))
    parts = get_all_nested_objects(message).values()
    return sum(len(part.deflate()) for part in parts) - 50_000
