"""The PEFT layers that stand where a linear stood, with one module for each adapter name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.tensor_train import FrozenInput, TTShape

from .config import TTAdapterConfig
from .dense import DenseAdapter
from .modules import TTAdapter, TTLinear
from .placement import out_features

NOT_MERGEABLE = (
    "TT adapters cannot be merged into the base model: a non-linearity stands between their two "
    "layers; keep the adapter, or call unload() for the model without the adapters (a trained head "
    "stays)"
)


class TTTunerLayer(nn.Module, BaseTunerLayer):
    """A frozen linear and, in `tt_adapter`, a module for each adapter name."""

    adapter_layer_names = ("tt_adapter",)
    other_param_names = ()

    # Of BaseTunerLayer, whose types a checker does not see.
    base_layer: nn.Module
    tt_adapter: nn.ModuleDict
    merged_adapters: list[str]
    active_adapters: list[str]
    disable_adapters: bool
    get_base_layer: Callable[[], Any]
    set_adapter: Callable[..., None]
    _get_base_layer_device_and_dtype: Callable[[Any], Any]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.tt_adapter = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, config: TTAdapterConfig, where: str) -> None:
        """Add fresh values for `adapter_name`, on the linear's device, in float32 or float64.

        Raises ConfigError if rank or modes do not fit the linear at `where`.
        """
        device, dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())
        # Half precision and quantised linears get float32 cores, as PEFT's own methods do.
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        try:
            self.tt_adapter[adapter_name] = self._build(config, device, dtype)
        except ConfigError as error:
            raise ConfigError(f"{error} (at {where})") from None
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _build(
        self, config: TTAdapterConfig, device: torch.device | None, dtype: torch.dtype
    ) -> nn.Module:
        raise NotImplementedError

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ConfigError(NOT_MERGEABLE)

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class TTAdapterLayer(TTTunerLayer):
    """adapter(linear(x)); with several active adapters, one after another."""

    def _build(
        self, config: TTAdapterConfig, device: torch.device | None, dtype: torch.dtype
    ) -> nn.Module:
        hidden = out_features(self.get_base_layer())
        assert hidden is not None  # check_targets lets linears through only
        options: dict[str, Any] = {
            "activation": config.activation,
            "dropout": config.dropout,
            "scaling": config.scaling,
            "bias": config.use_bias,
            "device": device,
            "dtype": dtype,
        }
        if not config.tensorized:
            return DenseAdapter(hidden, config.bottleneck, **options)
        return TTAdapter(
            _shape(hidden, config.bottleneck, config.down_modes, "down_modes"),
            _shape(config.bottleneck, hidden, config.up_modes, "up_modes"),
            config.rank,
            init=config.init,
            recompute_input=config.recompute_input,
            **options,
        )

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        made = result
        for name in self.active_adapters:
            if name not in self.tt_adapter:
                continue
            adapter = self.tt_adapter[name]
            alone = result is made and not adapter._forward_pre_hooks  # which may change its input
            if alone and isinstance(adapter, TTAdapter):
                source = FrozenInput.of(self.base_layer, x, adapter.recompute_input)
                result = adapter(result, source=source)
            else:
                result = adapter(result)
        return result


class TTClassifierLayer(TTTunerLayer):
    """A TT layer in place of the linear, which runs only while adapters are disabled."""

    def _build(
        self, config: TTAdapterConfig, device: torch.device | None, dtype: torch.dtype
    ) -> nn.Module:
        linear = self.get_base_layer()
        shape = _shape(
            linear.in_features, linear.out_features, config.classifier_modes, "classifier_modes"
        )
        rank = config.rank if config.classifier_rank is None else config.classifier_rank
        return TTLinear(
            shape, rank, bias=linear.bias is not None, init=config.init, device=device, dtype=dtype
        )

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        active = [name for name in self.active_adapters if name in self.tt_adapter]
        if self.disable_adapters or not active:
            return self.base_layer(x, *args, **kwargs)
        return self.tt_adapter[active[0]](x)


def _shape(in_features: int, out_features: int, modes: list[int] | None, key: str) -> TTShape:
    if modes is None:
        return TTShape.choose(in_features, out_features)
    return TTShape.from_modes(in_features, out_features, modes, key)
