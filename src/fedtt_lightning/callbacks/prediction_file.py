"""`predict` writes what the model says to a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from fedtt_lightning.errors import ConfigError


class PredictionFile(BasePredictionWriter):
    """Writes one JSON object a line for each example, in the order of the data.

    A `predict_step` that returns a dict of batched tensors or lists gives one object with the
    dict's keys for each example; a tensor or list becomes `{"prediction": ...}`. ConfigError for
    anything else.

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
        several = isinstance(trainer.predict_dataloaders, list)
        batches = [b for part in predictions for b in part] if several else predictions
        lines = [json.dumps(row) for batch in batches for row in _rows(batch)]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        partial.replace(path)
        print(f"wrote {len(lines)} predictions to {path}", flush=True)


def _rows(batch: Any) -> list[dict[str, Any]]:
    """Split what `predict_step` returned for a batch into one dict for each example."""
    columns = batch if isinstance(batch, dict) else {"prediction": batch}
    lists = {
        key: value.tolist() if isinstance(value, Tensor) else value
        for key, value in columns.items()
    }
    if not all(isinstance(value, list) for value in lists.values()) or (
        len({len(value) for value in lists.values()}) > 1
    ):
        raise ConfigError(
            "predict_step must return a tensor, a list, or a dict of them, with one entry for each "
            f"example of the batch; it returned {type(batch).__name__}"
        )
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
