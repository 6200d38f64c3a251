"""Choosing among candidate answers by their likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.modules.answer_loss import Likelihood
from fedtt_lightning.modules.text_match import squad_words


def score_table(likelihood: Likelihood, owner: Tensor, candidate: Tensor, examples: int) -> Tensor:
    """Return the mean log-likelihood of each candidate's tokens (examples, candidates).

    Dividing by the number of tokens makes long and short candidates comparable (arXiv 2005.14165,
    section 2.4). An example with fewer candidates than another has -inf in their place. The best
    candidate is `argmax(1)`, which takes the first of equal ones.

    Args:
        likelihood: of N rows, each a candidate of an example.
        owner: int64 (N,), the row's example.
        candidate: int64 (N,), which of its candidates the row holds.
        examples: how many examples there are.
    """
    scores = -likelihood.mean()
    table = scores.new_full((examples, int(candidate.max()) + 1), float("-inf"))
    table[owner, candidate] = scores
    return table


def right_candidates(batch: Mapping[str, Any], candidates: int) -> Tensor:
    """Return which candidates of each example are right, bool (B, candidates); none if unknown.

    That of `label`, int64 (B,), or those of the texts `answers` that equal one of the texts `gold`
    but for what SQuAD does not count (ReCoRD: one entity may be written in several ways).
    """
    label: Tensor = batch["label"]
    right = label.unsqueeze(1) == torch.arange(candidates, device=label.device)
    if "gold" in batch:
        for row, texts, gold in zip(right, batch["answers"], batch["gold"], strict=True):
            wanted = {squad_words(text) for text in gold}
            row[: len(texts)] = torch.tensor([squad_words(text) in wanted for text in texts])
    return right


def gold_losses(table: Tensor, right: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the right candidates, of examples that tell it.

    Of several right ones, that of the likeliest.

    Args:
        table: see `score_table`.
        right: see `right_candidates`.
    """
    known = right.any(1)
    return -table[known].masked_fill(~right[known], float("-inf")).amax(1)
