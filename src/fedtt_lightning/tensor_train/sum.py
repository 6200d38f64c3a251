"""Sums of tensor trains, and the exact cut of bonds that became wider than they need to be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def tt_sum(trains: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    """The train of sum_i weights[i] * trains[i], exactly: its ranks are the sums of the ranks.

    First cores side by side, inner cores block-diagonal, last cores, times the weights, one above
    the other (Oseledets 2011, section 4.1). The weights stand in the last core alone, so that a
    train of weight 0 adds nothing to the value, but its directions to the left factors.
    """
    last = len(trains[0]) - 1
    if last == 0:
        terms = (weight * train[0] for train, weight in zip(trains, weights, strict=True))
        return [torch.stack(list(terms)).sum(0)]
    ends = [train[-1] * weight for train, weight in zip(trains, weights, strict=True)]
    inner = [_block_diagonal([train[i] for train in trains]) for i in range(1, last)]
    return [torch.cat([train[0] for train in trains], dim=2), *inner, torch.cat(ends)]


def tt_shorten(cores: Sequence[Tensor]) -> list[Tensor]:
    """The same tensor with no bond wider than the modes on either side of it can carry.

    Sums of any number of trains so stay within the size of two dense tensors. Where a core has
    more columns than rows, it becomes the identity and its values go into its neighbour; no
    decomposition is needed.
    """
    cores = list(cores)
    for i in range(len(cores) - 1):
        left, mode, right = cores[i].shape
        if right > left * mode:
            cores[i + 1] = torch.tensordot(cores[i].reshape(-1, right), cores[i + 1], dims=1)
            cores[i] = _identity(cores[i], left * mode).reshape(left, mode, -1)
    for i in range(len(cores) - 1, 0, -1):
        left, mode, right = cores[i].shape
        if left > mode * right:
            cores[i - 1] = torch.tensordot(cores[i - 1], cores[i].reshape(left, -1), dims=1)
            cores[i] = _identity(cores[i], mode * right).reshape(-1, mode, right)
    return cores


def _identity(like: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _block_diagonal(cores: Sequence[Tensor]) -> Tensor:
    mode = cores[0].shape[1]
    size = (sum(core.shape[0] for core in cores), mode, sum(core.shape[2] for core in cores))
    whole = cores[0].new_zeros(size)
    row = column = 0
    for core in cores:
        rows, _, columns = core.shape
        whole[row : row + rows, :, column : column + columns] = core
        row, column = row + rows, column + columns
    return whole
