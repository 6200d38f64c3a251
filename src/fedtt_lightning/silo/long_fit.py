"""The one fit of a server or a silo: SIGTERM ends it as Ctrl-C does; it goes on where it was."""

from __future__ import annotations

import signal
import sys
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer

from fedtt_lightning.callbacks import FederatedCheckpoint
from fedtt_lightning.callbacks.checkpoint_io import SafeCheckpointIO
from fedtt_lightning.cli import FederatedCLI, main


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


def run_until_interrupted(kind: type[FederatedCLI], args: list[str], name: str) -> int:
    """Run `fit` of a command line and return the exit code: 128 + the signal that ended it.

    Args:
        kind: of the command line.
        args: without the command.
        name: of the command, as users know it.
    """
    received: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt  # after which Lightning lets callbacks close what they opened

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    try:
        return main(["fit", *args], kind)
    except (KeyboardInterrupt, SystemExit):
        if not received:
            raise
    print(
        f"{name} was interrupted; started again, it goes on from its last checkpoint",
        file=sys.stderr,
    )
    return 128 + received[0]
