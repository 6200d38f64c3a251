"""Checkpoints at the boundaries of client visits, so that a killed run loses one visit at most."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.parts import silo_of
from fedtt_lightning.errors import ConfigError


class FederatedCheckpoint(ModelCheckpoint):
    """Saves `last.ckpt` after every n visits inside a round, and as ModelCheckpoint at its end.

    `fit --ckpt_path last` goes on from the newest of them, with the same result as if the run had
    never stopped. The weights in every checkpoint are the global ones. At a round's end the best
    checkpoints by `monitor` are kept as ModelCheckpoint does.

    Args:
        dirpath: folder of the checkpoints; `checkpoints` in `default_root_dir` if not given, so
            that another process finds `last` there.
        every_n_visits: visits between two saves inside a round; 0 saves at round ends only. Visits
            side by side are saved when all of them are over.
        monitor: metric that decides which checkpoint is the best; the newest if not given.
        mode: `min` or `max`.
        save_top_k: how many of the best checkpoints are kept.
        filename: pattern of their names, as in ModelCheckpoint.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        every_n_visits: int = 1,
        monitor: str | None = None,
        mode: str = "max",
        save_top_k: int = 1,
        filename: str | None = None,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=True,
            enable_version_counter=False,
        )
        if every_n_visits < 0:
            raise ConfigError(f"every_n_visits is {every_n_visits}, but must be >= 0")
        self.every_n_visits = every_n_visits

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._choose_folder(trainer)
        super().setup(trainer, pl_module, stage)

    def federation_problems(self, trainer: Trainer, module: LightningModule) -> Iterator[str]:
        """Give a line if it would save inside rounds that several silos train."""
        if self.every_n_visits and silo_of(trainer).count > 1:
            yield (
                f"FederatedCheckpoint's every_n_visits is {self.every_n_visits}, but inside a "
                "round no silo knows what the others train: set it to 0"
            )

    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        self._choose_folder(trainer)  # Lightning looks for `last` before `setup`
        return super()._find_last_checkpoints(trainer)

    def _choose_folder(self, trainer: Trainer) -> None:
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        # ModelCheckpoint has saved nothing without validation in this round, or without a step.
        plan = find_federation(trainer).loop.plan
        saved = getattr(self, "_last_global_step_saved", None) == trainer.global_step
        if not saved or (plan is not None and plan.skipped):
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loop = find_federation(trainer).loop
        if not loop.is_open or loop.local is None or loop.step:
            return
        # Visits side by side end together: save if one of them is an n-th.
        before, done = (loop.local.locate(loop.position - ago)[0] for ago in (1, 0))
        n = self.every_n_visits
        if n and done // n > before // n:
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run or self.dirpath is None:  # type: ignore[attr-defined]
            return
        path = str(Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}")
        self.last_model_path = path
        trainer.save_checkpoint(path, weights_only=False)
