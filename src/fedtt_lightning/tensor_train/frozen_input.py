"""What an adapter keeps for backward in place of its input, where a frozen linear made that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook


@dataclass(frozen=True)
class FrozenInput:
    """An adapter's input x = u W^T + b, and how u = `rebuild(*kept)` is had again in backward.

    The adapter needs x there for one product only, g^T x = (g^T u) W^T + (g^T 1) b, with g as
    narrow as the rank. So x need not be kept where u is at hand.

    Attributes:
        weight: W of the frozen linear.
        bias: its b, if it has one.
        kept: the tensors that are kept for backward.
        rebuild: makes u of them.
    """

    weight: Tensor
    bias: Tensor | None
    kept: tuple[Tensor, ...]
    rebuild: Callable[..., Tensor]

    @staticmethod
    def of(linear: nn.Module, u: Tensor, recompute: bool = False) -> FrozenInput | None:
        """Return how to do without linear(u), or None where keeping that is as well.

        u itself is kept where it is no wider: attention keeps its output for itself, and then
        nothing is added. With `recompute` a wider one, such as a GELU's output, is computed again
        from what autograd keeps for it in any case.
        """
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return None  # a compiler chooses itself what to keep
        if type(linear) is not nn.Linear or _watched(linear):
            return None
        if type(linear.weight) not in (Tensor, nn.Parameter):
            return None  # quantised or sharded values, which need not take part in any product
        if any(p.requires_grad for p in linear.parameters()):
            return None
        found = _origin(u) if recompute else None
        if found is None and linear.in_features <= linear.out_features:
            found = (_itself, (u.detach(),))
        return (
            None if found is None else FrozenInput(linear.weight, linear.bias, found[1], found[0])
        )


def _watched(linear: nn.Module) -> bool:
    """Whether a hook or another forward may change what goes into a linear or comes out of it."""
    hooks = linear._forward_hooks or linear._forward_pre_hooks or _has_any_global_hook()
    return bool(hooks) or "forward" in vars(linear)


def _origin(u: Tensor) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None:
    """Return how u was computed, from tensors that autograd keeps for u's own backward.

    Known are the products, GELUs and ReLUs that stand before the last linear of a block. While
    hooks on saved tensors are set (gradient checkpointing, offloading) what is saved may be only a
    stand-in, and is left alone.
    """
    node = u.grad_fn
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if node is None or hooks is None or hooks(True) is not None:
        return None
    name = node.name()
    if name == "GeluBackward0":
        return partial(F.gelu, approximate=node._saved_approximate), (node._saved_self.detach(),)  # type: ignore[attr-defined]
    if name == "ReluBackward0":
        return _itself, (node._saved_result.detach(),)  # type: ignore[attr-defined]
    if name == "MulBackward0":
        left, right = node._saved_self, node._saved_other  # type: ignore[attr-defined]
        if left is not None and right is not None:
            return torch.mul, (left.detach(), right.detach())
    return None


def _itself(u: Tensor) -> Tensor:
    return u
