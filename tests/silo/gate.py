"""Lets a test hold a silo inside its visits."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

PATIENCE = 240  # seconds: a bound, not a measurement


class Gate(Callback):
    """Notes in a folder that a round's training begins, and waits there until it may go on."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(exist_ok=True)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        (self._folder / f"{trainer.current_epoch}-reached").touch()
        _wait_for(self._folder / f"{trainer.current_epoch}-open")


def wait_for_visit(folder: Path, round: int) -> None:
    """Return when the silo with the gate in `folder` trains in this round, from 0."""
    _wait_for(folder / f"{round}-reached")


def open_gate(folder: Path, *rounds: int) -> None:
    """Let the silo train in these rounds."""
    folder.mkdir(exist_ok=True)
    for round in rounds:
        (folder / f"{round}-open").touch()


def _wait_for(file: Path) -> None:
    end = monotonic() + PATIENCE
    while not file.exists():
        assert monotonic() < end, f"{file} does not come"
        sleep(0.05)
