"""The whole tensor-train adapter as one autograd function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .chains import half_chains, left_chain_gradients, right_chain_gradients
from .frozen_input import FrozenInput

OnExamples = Callable[[list[Tensor | None]], None]
"""Takes the gradients that each example gives [*down, down_bias, *up, up_bias]."""

_aten = torch.ops.aten

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda grad, z: _aten.threshold_backward(grad, z, 0)),
    "gelu": (F.gelu, lambda grad, z: _aten.gelu_backward(grad, z)),
    "silu": (F.silu, lambda grad, z: _aten.silu_backward(grad, z)),
    "tanh": (torch.tanh, lambda grad, z: _aten.tanh_backward(grad, torch.tanh(z))),
}
"""Activations by name: the function, and its derivative at z times a gradient."""


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
    on_examples: OnExamples | None = None,
    source: FrozenInput | None = None,
) -> Tensor:
    """y = x + scaling * (act(x L_d R_d + b_d) L_u R_u + b_u), shape and dtype those of x (..., in).

    L and R are the half-chains of the `down` cores (in x bottleneck) and the `up` cores (bottleneck
    x in); `mask` (..., bottleneck), if given, multiplies the activation (dropout). The chains are
    computed in the cores' dtype, autocast or not, and rounded to x's; gradients have the cores'
    dtype. Kept for backward are x, or in its place what `source` names, and products as wide as the
    rank; the bottleneck is computed again there. Differentiable once: a second derivative raises
    RuntimeError.

    Cores (G, r_i, k_i, r_{i+1}) and biases (G, size) are those of G clients: the first dimension of
    x is then G equal parts, one after another, and each goes through the adapter of its client.

    With `on_examples` cores and biases get no gradient. In its place backward calls `on_examples`
    with those of each example (the first dimension of x): of `[*down, down_bias, *up, up_bias]`, a
    tensor (examples, *shape) each, or None. They come in closed form from the products that the sum
    over examples needs too; no matrix (in x bottleneck) of an example is formed.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return tt_adapter(
                x, down, up, down_split, up_split, down_bias, up_bias, activation, scaling, mask,
                on_examples, source,
            )  # fmt: skip
    with torch.set_grad_enabled(torch.is_grad_enabled() and on_examples is None):
        down_left, down_right = half_chains(down, down_split)
        up_left, up_right = half_chains(up, up_split)
    anchor, on_chains = None, None
    if on_examples is not None:
        # The output must require a gradient, though the chains do not.
        trained = (t for t in (*down, *up, down_bias, up_bias) if t is not None and t.requires_grad)
        anchor = next(trained, None)
        on_chains = partial(_on_chains, on_examples, down, up, down_split, up_split)
    rebuild: Callable[..., Tensor] | None = None
    kept: tuple[Tensor | None, ...] = ()
    if source is not None:
        rebuild, kept = source.rebuild, (source.weight, source.bias, *source.kept)
    y, _, _ = _Adapter.apply(
        x, down_left, down_right, down_bias, up_left, up_right, up_bias, mask, anchor,
        activation, scaling, on_chains, rebuild, *kept,
    )  # fmt: skip
    return y


def _on_chains(
    on_examples: OnExamples,
    down: Sequence[Tensor],
    up: Sequence[Tensor],
    down_split: int,
    up_split: int,
    grads: Sequence[Tensor | None],
) -> None:
    """Turn each example's gradients of the chains into those of the cores."""
    found: list[Tensor | None] = []
    for cores, split, (left, right, bias) in (
        (down, down_split, grads[:3]),
        (up, up_split, grads[3:]),
    ):
        assert left is not None and right is not None
        with torch.autocast(left.device.type, enabled=False):
            found += left_chain_gradients(cores[:split], left)
            found += right_chain_gradients(cores[split:], right)
        found.append(bias)
    on_examples(found)


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
        anchor: Tensor | None,
        activation: str,
        scaling: float,
        on_chains: OnExamples | None,
        rebuild: Callable[..., Tensor] | None,
        *kept: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x, down_left)
        a = _narrow(rows, down_left.to(x.dtype))
        h = ACTIVATIONS[activation][0](_affine(a, down_right, down_bias))
        if mask is not None:
            h = h * mask.reshape(h.shape)
        c = _narrow(h, up_left.to(x.dtype))
        # A column of ones carries the bias: one pass over the wide output, not two.
        last = up_right
        if up_bias is not None:
            last = torch.cat([up_right, up_bias.unsqueeze(-2)], dim=-2)
            c = F.pad(c.mT, (0, 0, 0, 1), value=1.0).mT
        y = _add_product(rows, c, last.to(x.dtype), scaling)
        return y.reshape(x.shape), a, c

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        (x, *tensors, _), kept = inputs[:9], inputs[13:]
        ctx.activation, ctx.scaling, ctx.on_chains, ctx.rebuild = inputs[9:13]
        _, a, c = output
        ctx.mark_non_differentiable(a, c)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, a, c, *(kept if kept else (x,)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        down_left, down_right, down_bias, up_left, up_right, up_bias, mask, a, c, *kept = (
            ctx.saved_tensors
        )
        g = _rows(grad, down_left)
        function, derivative = ACTIVATIONS[ctx.activation]
        z = _affine(a, down_right, down_bias)
        h = function(z) if mask is None else function(z) * mask.reshape(z.shape)

        def grouped(rows: Tensor) -> Tensor:
            """All rows, those of each client, or those of each example."""
            return rows if ctx.on_chains is None else rows.reshape(len(grad), -1, rows.shape[-1])

        def product(left: Tensor, right: Tensor) -> Tensor:
            """left^T right over all rows, over those of each client, or over each example's."""
            return grouped(left).mT @ grouped(right)

        scaled_right = up_right if ctx.scaling == 1.0 else up_right * ctx.scaling
        grad_c = _narrow(g, scaled_right.to(grad.dtype).mT)
        grad_last = product(c, g)
        if ctx.scaling != 1.0:
            grad_last = grad_last * ctx.scaling
        # The gradient of a tall factor is computed as a wide transpose, which CPUs do faster.
        grad_up_left = product(grad_c, h).mT
        grad_h = grad_c @ up_left.to(grad.dtype).mT
        if mask is not None:
            grad_h = grad_h * mask.reshape(z.shape)
        grad_z = derivative(grad_h, z)
        grad_down_right = product(a, grad_z)
        grad_a = _narrow(grad_z, down_right.to(grad.dtype).mT)
        if ctx.rebuild is None:
            grad_down_left = product(grad_a, _rows(kept[0], down_left)).mT
        else:
            weight, bias, *made_from = kept
            u = ctx.rebuild(*made_from).to(grad.dtype)
            through = product(grad_a, _rows(u, down_left)).to(weight.dtype) @ weight.T
            if bias is not None:
                through = through + grouped(grad_a).sum(-2).unsqueeze(-1) * bias
            grad_down_left = through.mT
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _add_product(g, grad_a, down_left.to(grad.dtype).mT).reshape(grad.shape)

        def like(tensor: Tensor, value: Tensor) -> Tensor:
            return value.to(tensor.dtype).contiguous()

        rank, grad_down_bias, grad_up_bias = up_right.shape[-2], None, None
        if down_bias is not None:
            grad_down_bias = like(down_bias, grouped(grad_z).sum(-2))
        if up_bias is not None:
            grad_up_bias = like(up_bias, grad_last[..., rank, :])
        grads: tuple[Tensor | None, ...] = (
            like(down_left, grad_down_left),
            like(down_right, grad_down_right),
            grad_down_bias,
            like(up_left, grad_up_left),
            like(up_right, grad_last[..., :rank, :]),
            grad_up_bias,
        )
        if ctx.on_chains is not None:
            ctx.on_chains(grads)
            grads = (None,) * 6
        return grad_x, *grads, *(None,) * (len(ctx.needs_input_grad) - 7)


def _rows(x: Tensor, left: Tensor) -> Tensor:
    """All vectors of x (rows, in), or those of each client (G, rows, in)."""
    return x.reshape(*left.shape[:-2], -1, x.shape[-1])


def _narrow(rows: Tensor, tall: Tensor) -> Tensor:
    """rows tall, as wide as the rank: as a wide transpose, which CPUs multiply faster."""
    return (tall.mT @ rows.mT).mT


def _affine(a: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    right = right.to(a.dtype)
    return a @ right if bias is None else _add_product(bias.to(a.dtype).unsqueeze(-2), a, right)


def _add_product(base: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """base + scale * left right, of matrices or stacks of them."""
    add = torch.addmm if left.dim() == 2 else torch.baddbmm
    return add(base, left, right, alpha=scale)
