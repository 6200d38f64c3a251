"""The whole tensor-train adapter as one autograd function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .chains import half_chains

_aten = torch.ops.aten

# Name -> (function, its derivative times a gradient, from the input z).
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda grad, z: _aten.threshold_backward(grad, z, 0)),
    "gelu": (F.gelu, lambda grad, z: _aten.gelu_backward(grad, z)),
    "silu": (F.silu, lambda grad, z: _aten.silu_backward(grad, z)),
    "tanh": (torch.tanh, lambda grad, z: _aten.tanh_backward(grad, torch.tanh(z))),
}


def tt_adapter(
    x: Tensor,
    down: Sequence[Tensor],
    up: Sequence[Tensor],
    down_split: int,
    up_split: int,
    down_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    activation: str = "relu",
    scaling: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """y = x + scaling * (act(x L_d R_d + b_d) L_u R_u + b_u), shape and dtype those of x (..., in).

    L and R are the half-chains of the `down` cores (in x bottleneck) and the `up` cores (bottleneck
    x in); `mask` (..., bottleneck), if given, multiplies the activation (dropout). The chains are
    computed in the cores' dtype, autocast or not, and rounded to x's; gradients have the cores'
    dtype. Kept for backward are x and products as wide as the rank; the bottleneck is computed
    again there. Differentiable once: a second derivative raises RuntimeError.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return tt_adapter(
                x, down, up, down_split, up_split, down_bias, up_bias, activation, scaling, mask
            )
    down_left, down_right = half_chains(down, down_split)
    up_left, up_right = half_chains(up, up_split)
    y, _, _ = _Adapter.apply(
        x, down_left, down_right, down_bias, up_left, up_right, up_bias, mask, activation, scaling
    )
    return y


class _Adapter(torch.autograd.Function):
    """The arithmetic between the chains.

    Written with `setup_context` and a generated vmap rule, so that torch.func, and through it the
    per-sample gradients of opacus, see through it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        down_left: Tensor,
        down_right: Tensor,
        down_bias: Tensor | None,
        up_left: Tensor,
        up_right: Tensor,
        up_bias: Tensor | None,
        mask: Tensor | None,
        activation: str,
        scaling: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.reshape(-1, x.shape[-1])
        a = rows @ down_left.to(x.dtype)
        h = ACTIVATIONS[activation][0](_affine(a, down_right, down_bias))
        if mask is not None:
            h = h * mask.reshape(h.shape)
        c = h @ up_left.to(x.dtype)
        # A column of ones carries the bias: one pass over the wide output, not two.
        last = up_right if up_bias is None else torch.cat([up_right, up_bias[None]])
        if up_bias is not None:
            c = F.pad(c, (0, 1), value=1.0)
        y = torch.addmm(rows, c, last.to(x.dtype), alpha=scaling)
        return y.reshape(x.shape), a, c

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.activation, ctx.scaling = inputs
        _, a, c = output
        ctx.mark_non_differentiable(a, c)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, a, c)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 10
        x, down_left, down_right, down_bias, up_left, up_right, up_bias, mask, a, c = (
            ctx.saved_tensors
        )
        rows, g = x.reshape(-1, x.shape[-1]), grad.reshape(-1, x.shape[-1])
        function, derivative = ACTIVATIONS[ctx.activation]
        z = _affine(a, down_right, down_bias)
        h = function(z) if mask is None else function(z) * mask.reshape(z.shape)

        scaled_right = up_right if ctx.scaling == 1.0 else up_right * ctx.scaling
        grad_c = g @ scaled_right.to(x.dtype).T
        grad_last = c.T @ g
        if ctx.scaling != 1.0:
            grad_last = grad_last * ctx.scaling
        grad_up_left = h.T @ grad_c
        grad_h = grad_c @ up_left.to(x.dtype).T
        if mask is not None:
            grad_h = grad_h * mask.reshape(z.shape)
        grad_z = derivative(grad_h, z)
        grad_down_right = a.T @ grad_z
        grad_a = grad_z @ down_right.to(x.dtype).T
        # The gradient of a tall L is computed as a wide transpose, which is 2-3 times faster.
        grad_down_left = (grad_a.T @ rows).T
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.addmm(g, grad_a, down_left.to(x.dtype).T).reshape(x.shape)

        def like(tensor: Tensor, value: Tensor) -> Tensor:
            return value.to(tensor.dtype).contiguous()

        rank = up_right.shape[0]
        return (
            grad_x,
            like(down_left, grad_down_left),
            like(down_right, grad_down_right),
            None if down_bias is None else like(down_bias, grad_z.sum(0)),
            like(up_left, grad_up_left),
            like(up_right, grad_last[:rank]),
            None if up_bias is None else like(up_bias, grad_last[rank]),
            None,
            None,
            None,
        )


def _affine(a: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    right = right.to(a.dtype)
    return a @ right if bias is None else torch.addmm(bias.to(a.dtype), a, right)
