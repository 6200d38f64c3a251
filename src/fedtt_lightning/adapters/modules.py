"""The two modules that hold cores: the adapter and the tensorized linear.

Their parameters lie flat on the module that computes with them, `down_core_0`, never in a
ParameterList: opacus takes per-sample gradients module by module, and leaves the entries of a
ParameterList, whose own forward never runs, silently without any. Freezing schedules know cores by
the ending `core_<i>` of their names. Both modules also work on parameters of several clients,
stacked along a leading dimension, as `tt_adapter` describes it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedtt_lightning.tensor_train import (
    FrozenInput,
    OnExamples,
    TTShape,
    half_chains,
    init_adapter_,
    init_linear_,
    tt_adapter,
)

from .stacked import linear


class TTAdapter(nn.Module):
    """x + scaling * (act(x L_d R_d + b_d) L_u R_u + b_u) for x of shape (..., features).

    Parameters are `down_core_i` and `up_core_i` of shape (r_i, k_i, r_{i+1}), and `down_bias`,
    `up_bias` or None. Raises ConfigError if `rank` does not fit the shapes.

    `per_example`, if set, is called in each forward pass in train mode with `tensors`, and returns
    what takes each example's gradients of them in backward, in place of their sum: `on_examples` of
    `tt_adapter`.

    Args:
        down: modes of features x bottleneck.
        up: modes of bottleneck x features.
        rank: TT rank of both.
        activation: relu, gelu, silu or tanh.
        dropout: on the activation.
        scaling: factor of what is added to x.
        bias: whether there are biases.
        init: start, see `init_adapter_`.
        recompute_input: what the layer around it lets `FrozenInput.of` do.
        device: of the parameters.
        dtype: of the parameters.
    """

    down_bias: Tensor | None
    up_bias: Tensor | None
    per_example: Callable[[list[Tensor | None]], OnExamples] | None = None

    def __init__(
        self,
        down: TTShape,
        up: TTShape,
        rank: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        scaling: float = 1.0,
        bias: bool = True,
        init: str = "orthonormal",
        recompute_input: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.down, self.up, self.rank = down, up, rank
        self.recompute_input = recompute_input
        self.activation, self.dropout, self.scaling = activation, dropout, scaling
        _add_cores(self, "down_core", down, rank, device, dtype)
        _add_cores(self, "up_core", up, rank, device, dtype)
        _add_bias(self, "down_bias", down.out_features if bias else None, device, dtype)
        _add_bias(self, "up_bias", up.out_features if bias else None, device, dtype)
        self.reset_parameters(init)

    def reset_parameters(self, init: str, generator: torch.Generator | None = None) -> None:
        init_adapter_(
            self._cores("down_core", self.down),
            self._cores("up_core", self.up),
            self.down.split,
            self.up.split,
            self.down_bias,
            self.up_bias,
            init,
            generator,
        )

    def forward(self, x: Tensor, source: FrozenInput | None = None) -> Tensor:
        mask = None
        if self.training and self.dropout > 0:
            mask = F.dropout(x.new_ones(*x.shape[:-1], self.down.out_features), self.dropout)
        on_examples = None
        if self.per_example is not None and self.training and torch.is_grad_enabled():
            on_examples = self.per_example(self.tensors)
        return self.adapt(x, mask, on_examples, source)

    def adapt(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        on_examples: OnExamples | None = None,
        source: FrozenInput | None = None,
    ) -> Tensor:
        """The adapter with a given dropout mask; see `tt_adapter`."""
        return tt_adapter(
            x,
            self._cores("down_core", self.down),
            self._cores("up_core", self.up),
            self.down.split,
            self.up.split,
            self.down_bias,
            self.up_bias,
            self.activation,
            self.scaling,
            mask,
            on_examples,
            source,
        )

    @property
    def tensors(self) -> list[Tensor | None]:
        """`[*down_core_i, down_bias, *up_core_i, up_bias]`; None for a bias that there is not."""
        down, up = self._cores("down_core", self.down), self._cores("up_core", self.up)
        return [*down, self.down_bias, *up, self.up_bias]

    def _cores(self, prefix: str, shape: TTShape) -> list[Tensor]:
        return [getattr(self, f"{prefix}_{i}") for i in range(len(shape.modes))]

    def extra_repr(self) -> str:
        return (
            f"{list(self.down.modes)} {self.activation} {list(self.up.modes)}, rank={self.rank}, "
            f"dropout={self.dropout}, scaling={self.scaling}"
        )


class TTLinear(nn.Module):
    """x L R + b for x of shape (..., in): a linear layer of its own, with `core_i` and `bias`.

    Raises ConfigError if `rank` does not fit the shape.

    Args:
        shape: modes of in x out.
        rank: TT rank.
        bias: whether there is a bias.
        init: start, see `init_linear_`.
        device: of the parameters.
        dtype: of the parameters.
    """

    bias: Tensor | None

    def __init__(
        self,
        shape: TTShape,
        rank: int,
        *,
        bias: bool = True,
        init: str = "orthonormal",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.rank = shape, rank
        _add_cores(self, "core", shape, rank, device, dtype)
        _add_bias(self, "bias", shape.out_features if bias else None, device, dtype)
        self.reset_parameters(init)

    def reset_parameters(self, init: str, generator: torch.Generator | None = None) -> None:
        init_linear_(self.cores, self.shape.split, self.bias, init, generator)

    def forward(self, x: Tensor) -> Tensor:
        left, right = half_chains(self.cores, self.shape.split)
        narrow = linear(x.to(left.dtype), left.mT, None)
        return linear(narrow, right.mT, self.bias).to(x.dtype)

    @property
    def cores(self) -> list[nn.Parameter]:
        return [getattr(self, f"core_{i}") for i in range(len(self.shape.modes))]

    def extra_repr(self) -> str:
        return f"{list(self.shape.in_modes)} | {list(self.shape.out_modes)}, rank={self.rank}"


def _add_cores(
    module: nn.Module,
    prefix: str,
    shape: TTShape,
    rank: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> None:
    for i, size in enumerate(shape.core_shapes(rank)):
        core = nn.Parameter(torch.zeros(size, device=device, dtype=dtype))
        module.register_parameter(f"{prefix}_{i}", core)


def _add_bias(
    module: nn.Module,
    name: str,
    size: int | None,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> None:
    bias = None if size is None else nn.Parameter(torch.zeros(size, device=device, dtype=dtype))
    module.register_parameter(name, bias)
