"""Predictions become one JSON object a line for each example, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from fedtt_lightning.callbacks import PredictionFile
from fedtt_lightning.errors import ConfigError


class Echo(LightningModule):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def predict_step(self, batch: torch.Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.answer(batch)


def predict(answer: Any, folder: Path, loaders: int = 1) -> list[Any]:
    loader: Any = DataLoader(torch.arange(5), batch_size=2)  # type: ignore[arg-type]
    trainer = Trainer(
        callbacks=[PredictionFile()],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
    )
    trainer.predict(Echo(answer), loader if loaders == 1 else [loader] * loaders)
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_tensors_dicts_and_lists(tmp_path: Path) -> None:
    assert predict(lambda b: b, tmp_path) == [{"prediction": i} for i in range(5)]
    rows = predict(lambda b: {"a": b, "b": [str(x) for x in b.tolist()]}, tmp_path)
    assert rows == [{"a": i, "b": str(i)} for i in range(5)]
    nested = predict(lambda b: [[x, x] for x in b.tolist()], tmp_path)
    assert nested == [{"prediction": [i, i]} for i in range(5)]
    assert len(predict(lambda b: b, tmp_path, loaders=2)) == 10


@pytest.mark.parametrize("answer", [lambda b: (b, b), lambda b: {"a": b, "b": torch.tensor(1)}])
def test_what_cannot_be_split(answer: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="predict_step must return"):
        predict(answer, tmp_path)
    assert not list(tmp_path.iterdir())
