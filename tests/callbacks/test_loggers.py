"""Each of Lightning's loggers gets the same numbers of a round, under the same names."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from toy_run import ROUNDS, make_run

Series = dict[str, dict[int, float]]  # values by name and step
OFFLINE = {  # wandb and mlflow would report on themselves
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = {f"WANDB_{what}_DIR": str(tmp_path) for what in ("CACHE", "CONFIG", "DATA")}
    for name, value in (OFFLINE | folders).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def wandb() -> Iterator[Any]:
    module = pytest.importorskip("wandb")
    yield module
    module.teardown()  # ends the process that writes


def log(folder: Path, logger: Any) -> dict[int, dict[str, float]]:
    """Fit with the logger and return the metrics of each round."""
    trainer, module, data, record = make_run(folder, logger=logger)
    trainer.fit(module, datamodule=data)
    return record.rounds


def check(series: Series, rounds: dict[int, dict[str, float]], tolerance: float = 0.0) -> None:
    """See that a logger has all numbers of all rounds, each with its round as `epoch` beside."""
    names = {name for metrics in rounds.values() for name in metrics}
    assert {"fed/train_loss", "comm/upload_bytes_total", "val_loss", "val_acc"} <= names
    assert len(series["epoch"]) == ROUNDS
    for name in names:
        values = {series["epoch"][step]: value for step, value in series[name].items()}
        expected = {round: metrics[name] for round, metrics in rounds.items()}
        assert values == pytest.approx(expected, rel=tolerance, abs=0), name


def test_csv(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    rounds = log(tmp_path, logger)
    series: Series = {}
    with Path(logger.log_dir, "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    series.setdefault(name, {})[int(row["step"])] = float(value)
    check(series, rounds)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    rounds = log(tmp_path, logger)
    events = EventAccumulator(logger.log_dir).Reload()
    series = {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }
    check(series, rounds, tolerance=1e-7)  # it keeps float32


def test_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    logger = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    rounds = log(tmp_path, logger)
    client, run = logger.experiment, logger.run_id
    assert run is not None
    series = {
        name: {point.step: point.value for point in client.get_metric_history(run, name)}
        for name in client.get_run(run).data.metrics
    }
    check(series, rounds)


def test_wandb(tmp_path: Path, wandb: Any) -> None:
    """What it shows of a run that is over: the last value of each metric."""
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    rounds = log(tmp_path, logger)
    last = dict(logger.experiment.summary)
    assert last["epoch"] == ROUNDS - 1 and last["trainer/global_step"] > 0
    assert {name: last[name] for name in rounds[ROUNDS - 1]} == rounds[ROUNDS - 1]
