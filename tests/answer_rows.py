"""Rows with answers to learn, laid out in every way, and their likelihood one prefix at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Row = tuple[Tensor, int]
"""Token ids (T,), and how many of the last are the answer."""


def answer_rows(count: int, seed: int = 0, longest: int = 10) -> list[Row]:
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length, answer = torch.randint(4, longest + 1, (2,), generator=rng).tolist()
        ids = torch.randint(3, 60, (length,), generator=rng)
        rows.append((ids, 1 + answer % 3))
    return rows


def padded(rows: Sequence[Row], side: str = "right", extra: int = 0) -> dict[str, Tensor]:
    """A batch of the rows, as wide as the longest and `extra` tokens more."""
    width = max(len(ids) for ids, _ in rows) + extra
    names = ("input_ids", "attention_mask", "labels")
    batch = {name: torch.zeros(len(rows), width, dtype=torch.long) for name in names}
    batch["labels"] -= 100
    for i, (ids, answer) in enumerate(rows):
        start = 0 if side == "right" else width - len(ids)
        batch["input_ids"][i, start : start + len(ids)] = ids
        batch["attention_mask"][i, start : start + len(ids)] = 1
        batch["labels"][i, start + len(ids) - answer : start + len(ids)] = ids[-answer:]
    return batch


def packed(rows: Sequence[Row], width: int) -> dict[str, Tensor]:
    """The rows in order, as many in one as there is room for; labels of all tokens but answers."""
    lines: list[list[Row]] = [[]]
    for row in rows:
        if sum(len(ids) for ids, _ in lines[-1]) + len(row[0]) > width:
            lines.append([])
        lines[-1].append(row)
    names = ("input_ids", "labels", "position_ids", "segments")
    batch = {name: torch.zeros(len(lines), width, dtype=torch.long) for name in names}
    batch["labels"] -= 100
    for i, line in enumerate(lines):
        start = 0
        for number, (ids, answer) in enumerate(line, 1):
            end = start + len(ids)
            batch["input_ids"][i, start:end] = ids
            batch["labels"][i, end - answer : end] = ids[-answer:]
            batch["position_ids"][i, start:end] = torch.arange(len(ids))
            batch["segments"][i, start:end] = number
            start = end
    return batch


def token_by_token(model: nn.Module, row: Row) -> list[float]:
    """The log-likelihood of each answer token, from a forward pass over nothing but its prefix."""
    ids, answer = row
    found = []
    with torch.no_grad():
        for at in range(len(ids) - answer, len(ids)):
            logits = model(input_ids=ids[None, :at]).logits[0, -1]
            found.append(float(logits.double().log_softmax(-1)[ids[at]]))
    return found


def plain_loss(model: nn.Module, rows: Sequence[Row]) -> Tensor:
    """The mean over rows of each answer's mean negative log-likelihood, row by row."""
    losses = []
    for ids, answer in rows:
        logits: Any = model(input_ids=ids[None]).logits[0]
        losses.append(nn.functional.cross_entropy(logits[-answer - 1 : -1], ids[-answer:]))
    return torch.stack(losses).mean()
