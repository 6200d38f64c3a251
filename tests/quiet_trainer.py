"""A trainer on the CPU that computes in float64, prints nothing and keeps no checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer


def quiet_trainer(folder: Path, rounds: int, callbacks: list[Callback], **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "precision": "64-true",
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **options,
    }
    return Trainer(max_epochs=rounds, callbacks=callbacks, default_root_dir=folder, **settings)
