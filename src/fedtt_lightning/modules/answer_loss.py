"""How likely a language model finds the answers of a batch, example by example."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


class Likelihood(NamedTuple):
    """Of each example (E,): the summed negative log-likelihood of its answer, and its tokens."""

    nll: Tensor
    tokens: Tensor

    def mean(self) -> Tensor:
        """Return the mean over each example's answer tokens (E,), 0 where there are none."""
        return self.nll / self.tokens.clamp(min=1)


def answer_targets(labels: Tensor, segments: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return what each position is to predict (R, T), and the positions that have a target (K,).

    A position predicts the label after it, -100 being none. The K positions are those of any row.

    Args:
        labels: int64 (R, T), -100 where a token is no part of an answer.
        segments: int64 (R, T) of packed rows, see `decoder_inputs`: no example predicts the first
            token of the one after it.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    if segments is not None:
        targets = targets.masked_fill(segments != F.pad(segments[:, 1:], (0, 1)), IGNORED)
    return targets, (targets != IGNORED).any(0).nonzero().squeeze(1)


def example_numbers(labels: Tensor, segments: Tensor | None = None) -> tuple[Tensor, int]:
    """Return the example that each position belongs to (R, T), and how many there are.

    A row is an example; of packed rows each holds several, numbered row after row.
    """
    rows = len(labels)
    if segments is None:
        numbers = torch.arange(rows, device=labels.device)
        return numbers.unsqueeze(1).expand_as(labels), rows
    counts = segments.amax(1)
    before = counts.cumsum(0) - counts
    return before.unsqueeze(1) + segments - 1, int(counts.sum())


def answer_likelihood(logits: Tensor, targets: Tensor, owners: Tensor, examples: int) -> Likelihood:
    """Return the likelihood of each example's answer, in float32 or better.

    Args:
        logits: (R, K, V) at K positions of each row.
        targets: int64 (R, K), what they are to predict, -100 for nothing.
        owners: int64 (R, K), the example that they belong to; any number where there is no target.
        examples: how many there are.
    """
    chosen = targets != IGNORED
    kept = logits[chosen]
    if kept.dtype in (torch.float16, torch.bfloat16):
        kept = kept.float()
    losses = F.cross_entropy(kept, targets[chosen], reduction="none")
    owner = owners[chosen]
    nll = losses.new_zeros(examples).index_add(0, owner, losses)
    return Likelihood(nll, torch.bincount(owner, minlength=examples))
