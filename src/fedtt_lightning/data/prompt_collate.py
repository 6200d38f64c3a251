"""Batches of prompts: padded, packed, one row a candidate, or padded on the left to go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedtt_lightning.data.prompts import IGNORED

Batch = dict[str, Any]


@dataclass(frozen=True)
class PadAnswers:
    """Collate examples {"input_ids", "labels"}, padded on the right to the longest.

    The batch has `input_ids`, `attention_mask` and `labels`, int64 [batch, longest], with labels
    of -100 wherever no answer stands.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        return {
            "input_ids": _pad([e["input_ids"] for e in examples], self.pad_token_id),
            "attention_mask": _mask([e["input_ids"] for e in examples]),
            "labels": _pad([e["labels"] for e in examples], IGNORED),
        }


@dataclass(frozen=True)
class PackAnswers:
    """Collate examples {"input_ids", "labels"} into fewer rows, as wide as the longest of them.

    First-fit decreasing: from the longest to the shortest, each goes to the first row with room.
    The batch has `input_ids`, `labels`, `position_ids` (from 0 in each example) and `segments`
    (0 for padding, k for the k-th example of the row), int64 [rows, longest], rows <= examples.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        sizes = [len(example["input_ids"]) for example in examples]
        rows = first_fit(sizes)
        columns: dict[str, list[Tensor]] = {
            name: [] for name in ("input_ids", "labels", "position_ids", "segments")
        }
        for row in rows:
            parts = [torch.arange(sizes[index]) for index in row]
            columns["input_ids"].append(torch.cat([_long(examples[i]["input_ids"]) for i in row]))
            columns["labels"].append(torch.cat([_unseen(examples[i]["labels"]) for i in row]))
            columns["position_ids"].append(torch.cat(parts))
            columns["segments"].append(
                torch.cat([torch.full_like(part, k) for k, part in enumerate(parts, 1)])
            )
        fills = {"input_ids": self.pad_token_id, "labels": IGNORED}
        return {name: _pad(column, fills.get(name, 0)) for name, column in columns.items()}


@dataclass(frozen=True)
class PadForEvaluation:
    """Collate examples of the rows of `prompt_rows`, each kind in its own way.

    Examples to choose in, {"candidates": [{"input_ids", "labels"}, ...], "answers", "label"} and
    perhaps "group" and "gold", become a batch with one row a (example, candidate): `input_ids`,
    `attention_mask`, `labels` as of `PadAnswers`; `owner` and `candidate`, int64 [rows], say whose
    row it is; `label`, int64 [batch], is the right candidate, -1 if unknown; `answers` are the
    candidates as text, `gold` the right ones, `group` what is judged together: lists [batch].

    Examples to go on from, {"input_ids", "references"}, are padded on the left: `input_ids`,
    `attention_mask`, int64 [batch, longest], and `references`, a list [batch] of lists of text.

    Others are those of `PadAnswers`.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        if "references" in examples[0]:
            return {
                "input_ids": _pad([e["input_ids"] for e in examples], self.pad_token_id, "left"),
                "attention_mask": _mask([e["input_ids"] for e in examples], "left"),
                "references": [list(e["references"]) for e in examples],
            }
        pad = PadAnswers(self.pad_token_id)
        if "candidates" not in examples[0]:
            return pad(examples)
        counts = [len(example["candidates"]) for example in examples]
        batch = pad([row for example in examples for row in example["candidates"]])
        batch["owner"] = torch.repeat_interleave(torch.tensor(counts))
        batch["candidate"] = torch.cat([torch.arange(count) for count in counts])
        batch["label"] = torch.tensor([example["label"] for example in examples])
        for name in ("answers", "group", "gold"):
            if name in examples[0]:
                batch[name] = [example[name] for example in examples]
        return batch


def first_fit(sizes: Sequence[int]) -> list[list[int]]:
    """Return the indices of each row when sizes are put into rows as wide as the largest."""
    room: list[int] = []
    rows: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        place = next((row for row, left in enumerate(room) if left >= sizes[index]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(max(sizes))
        rows[place].append(index)
        room[place] -= sizes[index]
    return rows


def _unseen(labels: Any) -> Tensor:
    """Return labels without the first: in a row, the token before it is another example's."""
    labels = _long(labels).clone()
    labels[:1] = IGNORED
    return labels


def _long(values: Any) -> Tensor:
    return torch.as_tensor(values).long()


def _pad(sequences: Sequence[Any], fill: int, side: Literal["left", "right"] = "right") -> Tensor:
    tensors = [_long(values) for values in sequences]
    return pad_sequence(tensors, batch_first=True, padding_value=fill, padding_side=side)


def _mask(sequences: Sequence[Any], side: Literal["left", "right"] = "right") -> Tensor:
    return _pad([torch.ones(len(values)) for values in sequences], 0, side)
