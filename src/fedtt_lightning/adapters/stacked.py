"""Layers whose parameters are those of several clients, stacked along a leading dimension.

The input's first dimension is then as many equal parts, one after another: each client's examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b with weight (C, out, in) and bias (C, out), or those of all clients: `F.linear`.

    x is (C n, ..., in), and the result (C n, ..., out). Either of weight and bias may be shared.
    """
    if weight.dim() == 2:
        shared = F.linear(x, weight, bias if bias is None or bias.dim() == 1 else None)
        if bias is None or bias.dim() == 1:
            return shared
        rows = shared.reshape(len(bias), -1, weight.shape[0])
        return (rows + bias.to(rows.dtype).unsqueeze(1)).reshape(shared.shape)
    rows = x.reshape(len(weight), -1, x.shape[-1])
    if bias is None:
        result = torch.bmm(rows, weight.mT)
    else:
        result = torch.baddbmm(bias.unsqueeze(-2), rows, weight.mT)
    return result.reshape(*x.shape[:-1], weight.shape[-2])


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """`F.layer_norm` over the last dimensions `shape`, with weight and bias (C, *shape)."""
    result = F.layer_norm(x, tuple(shape), None, None, eps)
    for parameter, apply in ((weight, torch.mul), (bias, torch.add)):
        if parameter is not None:
            rows = result.reshape(len(parameter), -1, *shape)
            result = apply(rows, parameter.unsqueeze(1)).to(result.dtype).reshape(x.shape)
    return result


def embedding(indices: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight (C, V, H) for indices (C n, ...), each client's from its own table."""
    clients, size, width = weight.shape
    rows = indices.reshape(clients, -1)
    first = torch.arange(clients, device=rows.device).unsqueeze(1) * size
    return F.embedding(rows + first, weight.reshape(-1, width)).reshape(*indices.shape, width)
