"""Tensor-train matrices that split on the boundary between input and output modes (torch only)."""

from .adapter_function import ACTIVATIONS, tt_adapter
from .chains import half_chains, to_dense
from .initial import INITS, init_adapter_, init_linear_
from .shape import TTShape
from .svd import tt_svd

__all__ = [
    "ACTIVATIONS",
    "INITS",
    "TTShape",
    "half_chains",
    "init_adapter_",
    "init_linear_",
    "to_dense",
    "tt_adapter",
    "tt_svd",
]
