"""When rounds begin and end at a server, and how long visits train at a silo: silo_rounds.py."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Marks(Callback):
    """Appends to the file `marks` in the run's folder what kind of time it was, and its ends."""

    def _write(self, trainer: Trainer, kind: str, begin: float) -> None:
        with (Path(trainer.default_root_dir) / "marks").open("a") as file:
            file.write(json.dumps([kind, begin, time.time()]) + "\n")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._round = time.time()

    def on_client_start(
        self, trainer: Trainer, pl_module: LightningModule, visit: Any, resumed: bool
    ) -> None:
        self._visit = time.time()

    def on_client_trained(self, trainer: Trainer, pl_module: LightningModule, visit: Any) -> None:
        self._write(trainer, "trained", self._visit)

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: Any) -> None:
        self._write(trainer, "round", self._round)
