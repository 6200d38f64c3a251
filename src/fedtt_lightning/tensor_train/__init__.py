"""Tensor-train matrices that split on the boundary between input and output modes (torch only)."""

from .adapter_function import ACTIVATIONS, OnExamples, tt_adapter
from .chains import half_chains, left_chain_gradients, right_chain_gradients, to_dense
from .frozen_input import FrozenInput
from .initial import INITS, init_adapter_, init_linear_
from .rounding import pad_cores, scale_like, tt_round
from .shape import TTShape
from .sum import tt_shorten, tt_sum
from .svd import tt_svd

__all__ = [
    "ACTIVATIONS",
    "INITS",
    "FrozenInput",
    "OnExamples",
    "TTShape",
    "half_chains",
    "init_adapter_",
    "init_linear_",
    "left_chain_gradients",
    "pad_cores",
    "right_chain_gradients",
    "scale_like",
    "to_dense",
    "tt_adapter",
    "tt_round",
    "tt_shorten",
    "tt_sum",
    "tt_svd",
]
