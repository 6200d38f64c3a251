"""Metrics are CSV unless another logger is named, and the configuration lies with the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli_options import options
from fedtt_lightning.__main__ import main
from fedtt_lightning.report.run_folder import read_runs

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


@pytest.mark.parametrize("logger", [NO_FOLDER, "false"])
def test_without_a_folder_of_the_log(tiny_backbone: str, tmp_path: Path, logger: str) -> None:
    named = ["--trainer.logger", logger]
    files = fit(tiny_backbone, tmp_path, *named)
    assert files["config"] == Path("config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    saved = yaml.safe_load(text)
    assert saved["trainer"]["max_epochs"] == 1
    assert main(["validate", *options(tiny_backbone, tmp_path, *named)]) == 0
    assert (tmp_path / "config.yaml").read_text() == text


def test_a_report_is_of_the_fit_after_evaluations(tiny_backbone: str, tmp_path: Path) -> None:
    fit(tiny_backbone, tmp_path)
    (before,), _ = read_runs([tmp_path])
    for command in ("validate", "test", "predict"):
        assert main([command, *options(tiny_backbone, tmp_path, "--ckpt_path", "last")]) == 0
    assert (tmp_path / "lightning_logs" / "version_3" / "config.yaml").is_file()
    assert read_runs([tmp_path])[0] == [before] and before.problems == []
