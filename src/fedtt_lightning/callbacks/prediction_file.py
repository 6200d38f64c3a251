"""`predict` writes what the model says to a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor


class PredictionFile(BasePredictionWriter):
    """Writes one JSON object a line for each example, in the order of the data.

    A `predict_step` that returns a dict of batched tensors gives one object with the dict's keys
    for each example; anything else becomes `{"prediction": ...}`.

    Args:
        path: the file; `predictions.jsonl` in `default_root_dir` if not given.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.path = path

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        path = Path(self.path or Path(trainer.default_root_dir) / "predictions.jsonl")
        if trainer.world_size > 1:
            path = path.with_name(f"{path.stem}.rank{trainer.global_rank}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        count = 0
        with partial.open("w", encoding="utf-8") as file:
            for row in _rows(predictions):
                file.write(json.dumps(row) + "\n")
                count += 1
        partial.replace(path)
        print(f"wrote {count} predictions to {path}", flush=True)


def _rows(batches: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        if isinstance(batch, list) and any(isinstance(part, (dict, list)) for part in batch):
            yield from _rows(batch)  # one list for each of several dataloaders
            continue
        columns = batch if isinstance(batch, dict) else {"prediction": batch}
        lists = {key: _plain(value) for key, value in columns.items()}
        for values in zip(*lists.values(), strict=True):
            yield dict(zip(lists, values, strict=True))


def _plain(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        value = torch.atleast_1d(value).tolist()
    return list(value)
