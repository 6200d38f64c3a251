"""Metrics are CSV unless another logger is named, and the configuration lies with the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli_options import options
from fedtt_lightning.__main__ import main

NO_FOLDER = "lightning.pytorch.loggers.logger.DummyLogger"  # as of one that logs to a server
LOGS = "lightning_logs/version_0"


def fit(backbone: str, folder: Path, *more: str) -> dict[str, Path]:
    """Run one round and return the files it wrote by their names, without checkpoints."""
    assert main(["fit", *options(backbone, folder, "--trainer.max_epochs", "1", *more)]) == 0
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".ckpt"]
    return {path.name.partition(".")[0]: path.relative_to(folder) for path in files}


def test_csv_also_where_tensorboard_is_installed(tiny_backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    files = fit(tiny_backbone, tmp_path)
    assert files["metrics"] == Path(LOGS, "metrics.csv")
    assert files["config"] == Path(LOGS, "config.yaml") and "events" not in files


def test_tensorboard_by_name(tiny_backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    named = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", str(tmp_path)]
    files = fit(tiny_backbone, tmp_path, *named)
    assert files["events"].parent == files["config"].parent == Path(LOGS)
    assert "metrics" not in files


def test_a_logger_without_a_folder(tiny_backbone: str, tmp_path: Path) -> None:
    files = fit(tiny_backbone, tmp_path, "--trainer.logger", NO_FOLDER)
    assert files["config"] == Path("config.yaml")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["trainer"]["max_epochs"] == 1
    assert saved["trainer"]["logger"]["class_path"] == NO_FOLDER
