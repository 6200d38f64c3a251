"""Choosing among candidate answers by their likelihood."""

from __future__ import annotations

from torch import Tensor

from fedtt_lightning.modules.answer_loss import Likelihood


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


def gold_losses(table: Tensor, label: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the right candidates, of examples that tell it.

    Args:
        label: int64 (B,), the right candidate, -1 where unknown.
    """
    known = label >= 0
    return -table[known].gather(1, label[known].unsqueeze(1)).squeeze(1)
