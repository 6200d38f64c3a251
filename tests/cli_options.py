"""Options of a run of the command line that takes seconds."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def options(backbone: str, folder: Path, *more: str) -> list[str]:
    return [
        *("--config", str(ROOT / "configs/quickstart.yaml")),
        *("--model.backbone", backbone, "--data.train_size", "240"),
        *("--data.validation_size", "100", "--data.test_size", "50", "--data.clients", "3"),
        *("--trainer.default_root_dir", str(folder), "--trainer.enable_progress_bar", "false"),
        *("--trainer.max_epochs", "3", *more),
    ]
