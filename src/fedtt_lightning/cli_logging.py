"""Where the metrics and the configuration of a command are written."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def default_logger(default_root_dir: str | Path | None) -> CSVLogger:
    """Return what logs where `trainer.logger` names nothing: CSV, which reports read.

    Lightning's own choice is TensorBoard where that happens to be installed.
    """
    return CSVLogger(default_root_dir or os.getcwd())


class RunConfig(SaveConfigCallback):
    """Writes `config.yaml` into the folder of a CSV or TensorBoard log, else into the run's.

    Other loggers have no folder of their own: one that logs to a server has none at all. The run's
    configuration is that of its fit, which an evaluation leaves as it is.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.save_to_log_dir = isinstance(trainer.logger, CSVLogger | TensorBoardLogger)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.save_to_log_dir and stage == "fit":
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{self.config_filename}.partial"
            partial.write_text(self.parser.dump(self.config, skip_unset=False), encoding="utf-8")
            partial.replace(folder / self.config_filename)
