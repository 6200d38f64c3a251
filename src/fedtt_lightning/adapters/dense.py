"""The adapter without tensorization: what tensor trains are compared with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtt_lightning.tensor_train import ACTIVATIONS

from .stacked import linear


class DenseAdapter(nn.Module):
    """x + scaling * (act(x D^T + b_d) U^T + b_u) for x of shape (..., features).

    The bottleneck adapter of arXiv 1902.00751. Parameters are `down_weight` (bottleneck, features),
    `up_weight` (features, bottleneck), and `down_bias`, `up_bias` or None. It starts as the
    identity: `up_weight` and `up_bias` zero, the rest as in `nn.Linear`. Draws come from torch's
    global CPU generator on every device, so that a seed means the same start everywhere.

    Args:
        features: width of x.
        bottleneck: width inside.
        activation: relu, gelu, silu or tanh.
        dropout: on the activation.
        scaling: factor of what is added to x.
        bias: whether there are biases.
        device: of the parameters.
        dtype: of the parameters.
    """

    down_weight: Tensor
    up_weight: Tensor
    down_bias: Tensor | None
    up_bias: Tensor | None

    def __init__(
        self,
        features: int,
        bottleneck: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        scaling: float = 1.0,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.dropout, self.scaling = activation, dropout, scaling
        shapes = {
            "down_weight": (bottleneck, features),
            "up_weight": (features, bottleneck),
            "down_bias": (bottleneck,) if bias else None,
            "up_bias": (features,) if bias else None,
        }
        for name, shape in shapes.items():
            value = None
            if shape is not None:
                value = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))
            self.register_parameter(name, value)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.down_weight.shape[1])
        for tensor in (self.down_weight, self.down_bias):
            if tensor is not None and not tensor.is_meta:
                drawn = torch.empty(tensor.shape, dtype=tensor.dtype).uniform_(-bound, bound)
                tensor.copy_(drawn)
        for tensor in (self.up_weight, self.up_bias):
            if tensor is not None:
                tensor.zero_()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.to(self.down_weight.dtype)
        hidden = ACTIVATIONS[self.activation][0](linear(rows, self.down_weight, self.down_bias))
        hidden = F.dropout(hidden, self.dropout, self.training)
        update = linear(hidden, self.up_weight, self.up_bias)
        return x + (self.scaling * update).to(x.dtype)

    def extra_repr(self) -> str:
        bottleneck, features = self.down_weight.shape
        return (
            f"{features} {self.activation} {bottleneck}, dropout={self.dropout}, "
            f"scaling={self.scaling}"
        )
