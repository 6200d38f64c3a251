"""Closed-form gradients of single examples, for opacus: importing this registers them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from opacus.grad_sample import register_grad_sampler
from torch import Tensor
from torch.nn import Parameter

from fedtt_lightning.adapters import TTAdapter, TTLinear
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.tensor_train import half_chains, left_chain_gradients, right_chain_gradients


@register_grad_sampler(TTAdapter)
def adapter_gradients(
    layer: TTAdapter, activations: Sequence[Tensor], backprops: Tensor
) -> dict[Parameter, Tensor]:
    """Return (examples, *shape) for each parameter of a TT adapter that opacus's hooks watch.

    The fused function is run again for them; `PerExampleGradients` gets them from its only run.

    Raises:
        ConfigError: the adapter has dropout, whose mask opacus's hooks do not know.
    """
    if layer.training and layer.dropout > 0:
        raise ConfigError(
            f"opacus's hooks cannot follow the dropout of {layer.dropout} in TT adapters: set "
            "TTAdapterConfig's dropout to 0, or train with the callback LocalDP"
        )
    found: list[Tensor | None] = []
    with torch.enable_grad():
        layer.adapt(activations[0], on_examples=found.extend).backward(backprops)
    return _trained(layer.tensors, found)


@register_grad_sampler(TTLinear)
def linear_gradients(
    layer: TTLinear, activations: Sequence[Tensor], backprops: Tensor
) -> dict[Parameter, Tensor]:
    """Return (examples, *shape) for each parameter of a TT layer."""
    cores, split, examples = layer.cores, layer.shape.split, len(backprops)
    with torch.no_grad():
        left, right = half_chains(cores, split)
        x = activations[0].to(left.dtype).reshape(examples, -1, left.shape[0])
        g = backprops.to(left.dtype).reshape(examples, -1, right.shape[1])
        found = left_chain_gradients(cores[:split], x.mT @ (g @ right.T))
        found += right_chain_gradients(cores[split:], (x @ left).mT @ g)
    return _trained([*cores, layer.bias], [*found, g.sum(1)])


def _trained(
    parameters: Sequence[Tensor | None], gradients: Sequence[Tensor | None]
) -> dict[Parameter, Tensor]:
    pairs = zip(parameters, gradients, strict=True)
    return {p: g for p, g in pairs if isinstance(p, Parameter) and p.requires_grad}  # type: ignore[misc]
