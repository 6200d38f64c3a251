"""Starting values of cores and biases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from fedtt_lightning.errors import ConfigError

from .chains import half_chains

INITS = ("orthonormal", "gaussian", "loretta")
"""How an adapter may start. `orthonormal`: orthonormal cores, scaled to unit pre-activation
variance; the last core of `up` is zero, so that the adapter starts as the identity. `gaussian`:
LoRETTA's Gaussian in place of orthonormal cores. `loretta`: the same without the zero core, so that
it is no identity. A zero core in `down`, or two zero cores, would never train."""


@torch.no_grad()
def init_adapter_(
    down: Sequence[Tensor],
    up: Sequence[Tensor],
    down_split: int,
    up_split: int,
    down_bias: Tensor | None,
    up_bias: Tensor | None,
    init: str,
    generator: Generator | None = None,
) -> None:
    """Fill an adapter's cores and biases in place; `init` is one of INITS, else ConfigError.

    Under the identity starts (`orthonormal`, `gaussian`) y = x to the last bit. The zero core is
    the last of `up`, which FedTT+ trains in every round: a frozen zero core would stop all
    learning.
    """
    init_linear_(down, down_split, down_bias, init, generator)
    init_linear_(up, up_split, up_bias, init, generator)
    if init != "loretta":
        up[-1].zero_()
        if up_bias is not None:
            up_bias.zero_()


@torch.no_grad()
def init_linear_(
    cores: Sequence[Tensor],
    split: int,
    bias: Tensor | None,
    init: str,
    generator: Generator | None = None,
) -> None:
    """Fill the cores (and bias) of one TT layer in place; never zero, so a layer alone can train.

    Draws come from `generator` (a CPU one), or the global CPU generator of torch, on every device,
    so that a seed means the same start everywhere. On the meta device nothing is drawn.
    """
    if init not in INITS:
        raise ConfigError(f"init={init!r} is not one of {', '.join(INITS)}")
    if any(core.is_meta for core in cores):
        return
    in_features = math.prod(core.shape[1] for core in cores[:split])
    out_features = math.prod(core.shape[1] for core in cores[split:])
    drawn = [torch.empty(core.shape, dtype=_draw_dtype(core)) for core in cores]
    if init == "orthonormal":
        _orthonormal_(drawn, split, out_features, generator)
    else:
        _loretta_(drawn, in_features, out_features, generator)
    for core, values in zip(cores, drawn, strict=True):
        core.copy_(values)
    if bias is not None:
        bound = 1 / math.sqrt(out_features)
        values = torch.empty(bias.shape, dtype=_draw_dtype(bias))
        bias.copy_(values.uniform_(-bound, bound, generator=generator))


def _draw_dtype(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _loretta_(
    cores: Sequence[Tensor], in_features: int, out_features: int, generator: Generator | None
) -> None:
    """N(0, 1) / sqrt(r_i) * t^(1/d) with t = sqrt(1 / (in + out)) and r_i the rank on the right.

    The matrix then has entries of variance t^2, since prod r_i paths add up (LoRETTA's code).
    """
    scale = (1 / (in_features + out_features)) ** (0.5 / len(cores))
    for core in cores:
        core.normal_(generator=generator).mul_(scale / math.sqrt(core.shape[2]))


def _orthonormal_(
    cores: Sequence[Tensor], split: int, out_features: int, generator: Generator | None
) -> None:
    """L with orthonormal columns, R with orthonormal rows, the last core scaled.

    The scale makes ||L R||_F^2 = out, so that x of unit variance gives outputs of unit variance. It
    is sqrt(out / r), unless a bond's rank exceeds what the modes beyond it can carry.
    """
    for i, core in enumerate(cores):
        rows = -1 if i < split else core.shape[0]
        columns = core.shape[2] if i < split else -1
        nn.init.orthogonal_(core.view(rows, columns), generator=generator)
    left, right = half_chains(cores, split)
    norm_squared = ((left.T @ left) * (right @ right.T)).sum()
    cores[-1].mul_(torch.sqrt(out_features / norm_squared))
