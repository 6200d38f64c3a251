"""Runs that are not the plain one: reused callbacks, late layers, tied weights, stops anywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from fedtt_lightning import FederatedDataModule, FederatedRounds
from fedtt_lightning.callbacks import Communication
from fedtt_lightning.errors import ConfigError, FederationError
from toy import ToyData, ToyModule
from toy_run import At, make_run, outcome


def stop(trainer: Trainer) -> None:
    trainer.should_stop = True


def test_resume_inside_an_accumulation_window(tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 3}
    trainer, module, data, record = make_run(tmp_path / "whole", **options)
    trainer.fit(module, datamodule=data)
    whole = outcome(module, record)
    for batch in (1, 3, 4, 7):
        folder = tmp_path / str(batch)
        trainer, module, data, _ = make_run(folder, At(batch, stop), **options)
        trainer.fit(module, datamodule=data)
        trainer, module, data, record = make_run(folder, **options)
        trainer.fit(module, datamodule=data, ckpt_path="last")
        assert outcome(module, record) == whole, batch


@pytest.mark.parametrize("batch", [0, 3])
def test_interrupted_after_the_step_of_a_first_batch(tmp_path: Path, batch: int) -> None:
    class Late(ToyModule):
        def on_before_zero_grad(self, *_: Any) -> None:
            pass

        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            if self.trainer.fit_loop.total_batch_idx == batch:
                raise KeyboardInterrupt

    trainer, _, data, _ = make_run(tmp_path)
    module = Late().double()
    before = {name: value.clone() for name, value in module.named_parameters()}
    with pytest.raises(SystemExit):
        trainer.fit(module, datamodule=data)
    for name, value in module.named_parameters():
        assert torch.equal(value, before[name]), name


class Estimates(ToyModule):
    """Asks for the loader before the run has begun, as warm-up schedules do."""

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


def test_callbacks_serve_one_fit_after_another(tmp_path: Path) -> None:
    federation, communication = FederatedRounds(seed=1), Communication()

    def fit(*more: Callback, rounds: int = 1) -> tuple[dict[str, torch.Tensor], int, int]:
        torch.manual_seed(0)
        module = Estimates().double()
        trainer = Trainer(
            callbacks=[federation, communication, *more],
            max_epochs=rounds,
            accelerator="cpu",
            precision="64-true",
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=FederatedDataModule(ToyData(), clients=3))
        return module.state_dict(), trainer.global_step, communication.uploaded_total

    first = fit(rounds=2)
    fit(At(4, stop), rounds=2)
    second = fit(rounds=2)
    assert first[1:] == second[1:] and first[1] > 0
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])


def test_layers_made_in_the_modules_setup(tmp_path: Path) -> None:
    class LateLayers(ToyModule):
        def __init__(self, norm: bool) -> None:
            super().__init__()
            self.norm, self.late = norm, self.net
            del self._modules["net"]

        def setup(self, stage: str) -> None:
            self.net = self.late
            if self.norm:
                self.net.head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2))  # type: ignore[assignment]

    trainer, _, data, _ = make_run(tmp_path, plus=False)
    module = LateLayers(norm=False).double()
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == 3
    trainer, _, data, _ = make_run(tmp_path / "norm", plus=False)
    with pytest.raises(ConfigError, match="BatchNorm1d"):
        trainer.fit(LateLayers(norm=True).double(), datamodule=data)


def test_unfreezing_during_fit_is_refused(tmp_path: Path) -> None:
    def unfreeze(trainer: Trainer) -> None:
        trainer.lightning_module.net.backbone.requires_grad_(True)  # type: ignore[union-attr]

    trainer, module, data, _ = make_run(tmp_path, At(2, unfreeze))
    with pytest.raises(FederationError, match="requires_grad of parameters changed"):
        trainer.fit(module, datamodule=data)


def test_tied_weights_in_a_checkpoint_inside_a_visit_are_global(tmp_path: Path) -> None:
    saved = tmp_path / "inside.ckpt"
    trainer, module, data, _ = make_run(
        tmp_path, At(2, lambda trainer: trainer.save_checkpoint(saved), end=True)
    )
    module.tied = module.net.head  # type: ignore[assignment]
    trainer.fit(module, datamodule=data)
    weights = torch.load(saved, weights_only=True)["state_dict"]
    assert torch.equal(weights["tied.weight"], weights["net.head.weight"])


def test_resume_inside_a_round_with_other_visits_is_refused(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, At(2, stop))
    trainer.fit(module, datamodule=data)
    trainer, module, data, _ = make_run(tmp_path)
    data.inner.batch_size = 5  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="inside round 1, whose visits are others"):
        trainer.fit(module, datamodule=data, ckpt_path="last")


def test_rounds_without_validation_are_saved_too(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, every_n_visits=0, check_val_every_n_epoch=2)
    trainer.fit(module, datamodule=data)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["callbacks"]["FederatedRounds"]["loop"]["round"] == 2


def test_fast_dev_run_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path)
    trainer.fit(module, datamodule=data)
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    trainer, module, data, _ = make_run(tmp_path, fast_dev_run=True)
    trainer.fit(module, datamodule=data)
    assert last.read_bytes() == before


def test_a_checkpoint_replaces_another_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file appears by renaming within its folder, wherever temporary files live."""
    trainer, module, data, _ = make_run(tmp_path)
    trainer.fit(module, datamodule=data)
    last = tmp_path / "checkpoints" / "last.ckpt"
    inode = last.stat().st_ino
    renamed: list[tuple[Path, Path]] = []
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda old, new: (renamed.append((old, Path(new))), replace(old, new))[1]
    )
    trainer.save_checkpoint(last)
    assert [new for _, new in renamed] == [last]
    assert renamed[0][0].parent == last.parent
    assert last.stat().st_ino != inode
    assert os.listdir(last.parent).count("last.ckpt") == 1
