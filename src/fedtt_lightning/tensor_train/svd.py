"""TT-SVD: the tensor train nearest, up to a known factor, to a given matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError

from .shape import TTShape


def tt_svd(matrix: Tensor, shape: TTShape, rank: int) -> list[Tensor]:
    """Cores of a train for `matrix` (in x out) by truncated SVDs from left to right.

    The error in the Frobenius norm is at most sqrt(sum of the squared truncation errors), so at
    most sqrt(d - 1) times that of the best train of these ranks (Oseledets 2011, theorem 2.2 and
    its corollary), d being the number of modes. Inner ranks are min(rank, what the unfolding
    allows), so they may be smaller than `rank` near the ends. Exact if every unfolding has rank <=
    `rank`. Raises ConfigError if the matrix or the rank does not fit `shape`.

    Examples:
        >>> from fedtt_lightning.tensor_train import to_dense
        >>> matrix = torch.arange(36.0).reshape(6, 6)
        >>> cores = tt_svd(matrix, TTShape((2, 3), (3, 2)), rank=2)
        >>> [tuple(core.shape) for core in cores]
        [(1, 2, 2), (2, 3, 2), (2, 3, 2), (2, 2, 1)]
        >>> torch.allclose(to_dense(cores, 2), matrix, atol=1e-4)
        True
    """
    if tuple(matrix.shape) != (shape.in_features, shape.out_features):
        raise ConfigError(
            f"a matrix of shape {tuple(matrix.shape)} does not fit modes "
            f"{list(shape.in_modes)} | {list(shape.out_modes)}"
        )
    shape.core_shapes(rank)
    cores: list[Tensor] = []
    rest, left_rank = matrix.reshape(1, -1), 1
    for mode in shape.modes[:-1]:
        u, s, v = torch.linalg.svd(rest.reshape(left_rank * mode, -1), full_matrices=False)
        kept = min(rank, s.numel())
        cores.append(u[:, :kept].reshape(left_rank, mode, kept).contiguous())
        rest, left_rank = s[:kept, None] * v[:kept], kept
    cores.append(rest.reshape(left_rank, shape.modes[-1], 1).contiguous())
    return cores
