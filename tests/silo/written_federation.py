"""A new federation's own files, made small, and the processes of its commands."""

from __future__ import annotations

import csv
from pathlib import Path
from time import monotonic, sleep

import torch

from fedtt_lightning.silo.flower_processes import free_port
from fedtt_lightning.silo.new_federation import write_federation
from silo.forks import Forks
from silo.gate import PATIENCE

COMMANDS = [
    *("fedtt_lightning.silo.serve_command", "fedtt_lightning.silo.silo_command"),
    *("fedtt_lightning.silo.flower_transport", "fedtt_lightning.silo.super_node"),
    *("transformers", "peft"),
]


class WrittenFederation:
    """A folder that `new-federation` wrote, and the processes of its commands.

    Args:
        folder: for it; `fit.yaml` there simulates it.
        forks: starts the processes; see `COMMANDS`.
        backbone: folder of a small one.
        host: the server's address.
        hosts: the process in whose network each config's process runs; the test's own if not given.
    """

    def __init__(
        self,
        folder: Path,
        forks: Forks,
        backbone: str,
        silos: int,
        rounds: int,
        host: str = "127.0.0.1",
        hosts: dict[str, int] | None = None,
    ) -> None:
        self.folder, self._forks, self._rounds = folder, forks, rounds
        self._hosts = hosts or {}
        write_federation(folder, silos, [host], free_port(), 1)
        small = {  # what the written configs say, and what they say here
            "max_epochs: 12 ": f"max_epochs: {rounds} ",
            "rank: 4\n        bottleneck: 16": "rank: 16\n        bottleneck: 64",
            "    batch_size: 32\n": (
                "    batch_size: 32\n    train_size: 240\n    validation_size: 100\n"
            ),
            "backbone: builtin ": f"backbone: {backbone} ",
        }
        for file in folder.glob("*.yaml"):
            text = file.read_text()
            for old, new in small.items():
                assert old in text
                text = text.replace(old, new)
            file.write_text(text)
        text = (folder / "federation.yaml").read_text()
        (folder / "fit.yaml").write_text(text[text.index("seed_everything") :])

    def serve(self, *more: str) -> int:
        """Start the server, and wait until it knows all keys."""
        server = self.start("serve", "federation", *more)
        self.wait_for("POST /v1/control/start-run", self.link)
        return server

    def silo(self, number: int, *more: str) -> int:
        return self.start("silo", f"silo-{number}", *more)

    def fit(self, *more: str) -> int:
        """Start a simulation of the federation."""
        return self.start("fit", "fit", "--trainer.default_root_dir=runs/fit", *more)

    def start(self, command: str, config: str, *more: str) -> int:
        """Run a command of the README in the folder."""
        arguments = {
            "args": [command, "--config", f"{config}.yaml", *more],
            "cwd": str(self.folder),
        }
        run = "silo.forks:run_command"
        if config in self._hosts:
            run, arguments["host"] = "silo.network:run_command", self._hosts[config]
        return self._forks.start(run, self.log(config).parent, **arguments)

    def ends(self, process: int) -> int:
        return self._forks.wait(process, PATIENCE)

    @property
    def link(self) -> Path:
        """What Flower's SuperLink prints."""
        return self.folder / "runs/server/flower/superlink.log"

    def log(self, config: str) -> Path:
        return self.folder / "logs" / config / "log"

    def wait_for(self, words: str, log: Path, times: int = 1) -> None:
        end = monotonic() + PATIENCE
        while not log.exists() or log.read_text().count(words) < times:
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
        return [found[round] for round in range(self._rounds)]

    def assert_same_weights(self) -> None:
        """Check that server and simulation have ended alike."""
        served, simulated = self.weights("server"), self.weights("fit")
        assert served.keys() == simulated.keys()
        for name, wanted in simulated.items():
            torch.testing.assert_close(served[name], wanted, rtol=0, atol=1e-6)
