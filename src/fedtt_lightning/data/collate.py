"""Batches of tokenized texts, padded to the longest text of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class PadBatch:
    """Collate examples {"input_ids": [...], ..., "label": y} into a batch of tensors.

    `padding` names the sequences to keep and what fills each (`{"input_ids": 0,
    "attention_mask": 0}`); they become int64 [batch, longest]. `label` becomes `labels`, int64
    [batch] for classes or float32 [batch] for scores. Any other column is left out.
    """

    padding: Mapping[str, int]
    side: Literal["left", "right"] = "right"

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {
            name: pad_sequence(
                [torch.as_tensor(example[name]) for example in examples],
                batch_first=True,
                padding_value=fill,
                padding_side=self.side,
            ).long()
            for name, fill in self.padding.items()
        }
        batch["labels"] = torch.tensor([example["label"] for example in examples])
        return batch
