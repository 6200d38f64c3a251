"""Kills runs that skip rounds with SIGKILL and resumes them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lightning.pytorch import Trainer

from callbacks.killed_runs import in_process
from skipping_run import AtHook, skipping
from toy_run import kill_itself


def kill_inside_second_visit(trainer: Trainer) -> None:
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    if loop.inside_visit and loop.plan.locate(loop.position)[0] == 1:
        kill_itself(trainer)


KILLS = [
    ("on_train_epoch_start", 1, kill_itself),  # with no checkpoint yet
    ("on_train_epoch_end", 3, kill_itself),  # a skipped round that is not saved, after a trained
    ("on_train_epoch_start", 4, kill_itself),  # the same after a skipped round, which is saved
    ("on_train_batch_end", 5, kill_inside_second_visit),
    ("on_validation_end", 8, kill_itself),
]


def killed_skipping_runs(folder: Path) -> None:
    """Leave the outcome of each in `<hook>-<round>.json`."""
    for hook, round, action in KILLS:
        killed, result = folder / f"{hook}-{round}", folder / f"{hook}-{round}.json"
        kill = AtHook(hook, action, round)
        status = in_process(killed, result, kill, **skipping(killed))
        assert os.WTERMSIG(status) == signal.SIGKILL and not result.exists()
        assert in_process(killed, result, **skipping(killed)) == 0
