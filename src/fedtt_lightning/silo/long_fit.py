"""The one fit of a server or a silo, which goes on where it was when it is started again."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer

from fedtt_lightning.callbacks import FederatedCheckpoint
from fedtt_lightning.callbacks.checkpoint_io import SafeCheckpointIO


def checkpoints_of(trainer: Trainer) -> list[FederatedCheckpoint]:
    """Return the callbacks that save rounds."""
    return [c for c in trainer.checkpoint_callbacks if isinstance(c, FederatedCheckpoint)]


def fit_from_last(trainer: Trainer, exchange: Callback, arguments: dict[str, Any]) -> None:
    """Fit with an exchange before all other callbacks, from the last checkpoint if there is one.

    A checkpoint is on the disk before the other side is told of what is in it: after a power cut
    neither may know of more than it has.

    Args:
        arguments: of `Trainer.fit`.
    """
    if any(callback._find_last_checkpoints(trainer) for callback in checkpoints_of(trainer)):
        arguments["ckpt_path"] = arguments.get("ckpt_path") or "last"
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = SafeCheckpointIO(durable=True)
    trainer.callbacks.insert(0, exchange)  # type: ignore[attr-defined]
    trainer.fit(**arguments)
