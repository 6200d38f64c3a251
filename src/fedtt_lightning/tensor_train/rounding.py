"""Rounding: the tensor train of smaller ranks nearest, up to a known factor, to a given one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def tt_round(cores: Sequence[Tensor], ranks: Sequence[int]) -> list[Tensor]:
    """A train of these ranks at the d - 1 inner bonds, lower only where the modes on the left are.

    Oseledets 2011, algorithm 2: a QR sweep from right to left, then truncated SVDs from left to
    right; the dense tensor is never built. The error in the Frobenius norm is at most sqrt(d - 1)
    times that of the best train of these ranks, d being the number of cores, and nil if no
    unfolding has a higher rank. Compute in float64: small singular values drown otherwise.

    All cores but the last are left-orthonormal (as a (r_i k_i) x r_{i+1} matrix each has
    orthonormal columns), and the whole size of the tensor is in the last. That is how an adapter
    starts (`init_adapter_`): what is rounded can train on. Where the tensor has a smaller rank than
    asked for, the other cores keep orthonormal columns, from the spans of the given cores as far as
    these reach, and the last core has zeros there: such a direction has a gradient. So even a
    tensor that is zero, an identity start, trains: of its cores only the last is zero.
    """
    right = _right_factors(cores)
    rounded = []
    carry = cores[0].new_ones(1, 1)
    for i, (core, rank) in enumerate(zip(cores[:-1], ranks, strict=True)):
        mode, width = core.shape[1:]
        span = (carry @ core.reshape(core.shape[0], -1)).reshape(-1, width)
        # At least `rank` columns: QR makes orthonormal ones even of zeros.
        basis, triangle = torch.linalg.qr(F.pad(span, (0, max(rank - width, 0))))
        vectors = torch.linalg.svd(triangle[:, :width] @ right[i + 1]).U
        kept = basis @ vectors[:, :rank]
        rounded.append(kept.reshape(carry.shape[0], mode, -1).contiguous())
        carry = kept.T @ span
    last = cores[-1]
    rounded.append((carry @ last.reshape(last.shape[0], -1)).reshape(-1, *last.shape[1:]))
    return rounded


def pad_cores(cores: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The cores with zeros behind their entries, up to `shapes` (r_i, k_i, r_{i+1}).

    Entries that are padded on one bond meet zeros on the other core of that bond, so their gradient
    is exactly zero: training the padded train is training the small one.
    """
    return [
        F.pad(core, (0, shape[2] - core.shape[2], 0, 0, 0, shape[0] - core.shape[0]))
        for core, shape in zip(cores, shapes, strict=True)
    ]


def scale_like(cores: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """The same tensor, each core but the last with columns as long as those of `like`'s core.

    For left-orthonormal cores, whose columns have length 1. The length is the root mean square over
    the columns of `like` that are not zero; the last core is divided by all of them. The step of an
    optimizer then moves the tensor as far as it did before the cores were made anew.
    """
    scaled = list(cores)
    for i, core in enumerate(like[:-1]):
        squares = core.square().sum((0, 1))
        squares = squares[squares > 0]
        if len(squares):
            length = squares.mean().sqrt()
            scaled[i] = scaled[i] * length
            scaled[-1] = scaled[-1] / length
    return scaled


def _right_factors(cores: Sequence[Tensor]) -> list[Tensor]:
    """For each bond i, T of shape (r_i, m) with `cores[i:]` = T P and P of orthonormal rows."""
    factors = [cores[0].new_ones(1, 1)] * (len(cores) + 1)
    for i in range(len(cores) - 1, 0, -1):
        core = cores[i]
        wide = (core.reshape(-1, core.shape[2]) @ factors[i + 1]).reshape(core.shape[0], -1)
        factors[i] = torch.linalg.qr(wide.T, mode="r").R.T
    return factors
