"""Fits decoders sharded over two processes, one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from answer_rows import answer_rows, padded
from fedtt_lightning import (
    CausalLM,
    FactorFreezing,
    FederatedCheckpoint,
    FederatedDataModule,
    FederatedRounds,
    TTAdapterConfig,
)
from fedtt_lightning.data import BySize
from fedtt_lightning.strategies import ShardedBackbone


class Rows(LightningDataModule):
    """For clients of 4, 8 and 12 rows, so that batches of 4 need no row twice."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.options: Any = {"batch_size": batch_size, "collate_fn": padded}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(answer_rows(24, seed=9), **self.options)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(answer_rows(8, seed=3), **self.options)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(answer_rows(5, seed=7), **self.options)  # type: ignore[arg-type]


class Whole(CausalLM):
    """Leaves nothing out of its checkpoints, as a user's own module."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None: ...

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None: ...


def build(backbone: str, kind: type[CausalLM] = CausalLM, **options: Any) -> CausalLM:
    torch.manual_seed(3)
    config = TTAdapterConfig(rank=2, bottleneck=8, init="loretta")
    module = kind(backbone, config, lr=0.01, weight_decay=0.1, **options)
    with torch.no_grad():  # so that what is written soon ends, or not
        head = module.model.lm_head.weight
        head[2] = 2 * head[7:].mean(0)
    return module


def data(devices: int) -> FederatedDataModule:
    return FederatedDataModule(Rows(4 // devices), clients=3, partition=BySize([1, 2, 3]))


def fit(folder: Path, module: CausalLM, strategy: Any, devices: int, **options: Any) -> Trainer:
    trainer = Trainer(
        callbacks=[
            FederatedRounds(seed=5, local_epochs=2),
            FactorFreezing(),
            FederatedCheckpoint(dirpath=str(folder)),
        ],
        strategy=strategy,
        devices=devices,
        accelerator="cpu",
        gradient_clip_val=0.5,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, datamodule=data(devices))
    return trainer


def fit_exact(folder: Path, module: CausalLM, strategy: Any, devices: int) -> dict[str, Any]:
    """What a run in float64 gives, and how it goes on."""
    options = {"max_epochs": 2, "precision": "64-true"}
    trainer = fit(folder, module, strategy, devices, **options)
    validated = float(trainer.callback_metrics["val_loss"])
    (tested,) = trainer.test(module, data(devices), ckpt_path="last", verbose=False)
    predicted: Any = trainer.predict(module, data(devices))
    return {
        "trained": trained(module),
        "bytes": frozen_bytes(module),
        "losses": torch.tensor([validated, tested["test_loss"]], dtype=torch.float64),
        "predicted": [number for batch in predicted for number in batch["log_likelihood"]],
    }


def trained(module: CausalLM) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


def frozen_bytes(module: CausalLM) -> int:
    """The bytes of the blocks' frozen weights that lie in this process."""
    frozen = [p for n, p in module.named_parameters() if ".layers." in n and not p.requires_grad]
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in frozen]
    return sum(part.untyped_storage().nbytes() for part in parts)


def written(module: CausalLM, rank: int) -> list[list[int]]:
    """What the model writes after a process's prompts: up to 20 tokens, or to the end token."""
    batch = padded(answer_rows(2, seed=rank), "left")
    del batch["labels"]
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
    made: list[list[int]] = module.eval().model.generate(**batch, **options).tolist()
    return made


def run_sharded(folder: Path, backbone: str) -> None:
    """Leave in FOLDER/<rank>.pt what this process has found."""
    exact = build(backbone, dtype="float32")
    result = fit_exact(folder / "exact", exact, ShardedBackbone(), 2)
    rank = exact.trainer.global_rank
    result["written"] = written(exact, rank)
    for name, strategy in (("sharded", ShardedBackbone()), ("ddp", "ddp")):
        half = build(backbone, Whole, gradient_checkpointing=True)
        trainer = fit(folder / name, half, strategy, 2, max_epochs=1)
        result[name] = trained(half)
        trainer.test(half, data(2), ckpt_path="last", verbose=False)
        assert all(torch.equal(value, result[name][n]) for n, value in trained(half).items())
    torch.save(result, folder / f"{rank}.pt")
