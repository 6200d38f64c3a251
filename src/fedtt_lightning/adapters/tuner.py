"""The PEFT tuner: puts TT adapters into a model and lets its head and norms train."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from fedtt_lightning.errors import ConfigError

from .config import TTAdapterConfig
from .layers import NOT_MERGEABLE, TTAdapterLayer, TTClassifierLayer, TTTunerLayer
from .peft_method import PREFIX
from .placement import (
    check_targets,
    check_trained_whole,
    classifier_dense,
    default_targets,
    head_modules,
    norm_modules,
)

# PEFT's task classes put these into `modules_to_save` by themselves, and match them by bare ending.
_TASK_HEADS = ("classifier", "score", "qa_outputs")
_IN_PEFT_MODEL = "base_model.model."


class TTAdapterModel(BaseTuner):
    """A model with TT adapters, as `get_peft_model` makes it from a TTAdapterConfig.

    Raises ConfigError for targets, ranks, modes and heads that do not fit the model.
    """

    prefix = PREFIX
    tuner_layer_cls = TTTunerLayer

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config  # the model itself is needed: see _prepare_model

    def _prepare_model(self, peft_config: TTAdapterConfig, model: nn.Module) -> None:
        if peft_config.target_modules is None:
            peft_config.target_modules = default_targets(model)
        elif peft_config.target_modules != "all-linear":
            check_targets(model, peft_config.target_modules)
        check_trained_whole(model, _named_by_user(peft_config))
        self._dense = classifier_dense(model) if peft_config.tt_classifier else None
        heads = [name for name in head_modules(model) if name != self._dense]
        norms = norm_modules(model) if peft_config.train_layernorms else []
        self._trained = heads + norms
        if heads and peft_config.modules_to_save is not None:
            _rename_task_heads(peft_config, heads)

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> Any:
        if self._dense is not None and key == self._dense:
            return True
        if any(key == name or key.startswith(f"{name}.") for name in self._trained):
            return False
        return BaseTuner._check_target_module_exists(peft_config, key)

    def _create_and_replace(
        self,
        peft_config: TTAdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, TTTunerLayer):
            target.update_layer(adapter_name, peft_config, current_key)
            return
        if isinstance(target, BaseTunerLayer | ModulesToSaveWrapper):
            raise ConfigError(
                f"{current_key} is taken by another adapter as {type(target).__name__}"
            )
        kind = TTClassifierLayer if current_key == self._dense else TTAdapterLayer
        layer = kind(target)
        layer.set_adapter(self.active_adapters)
        layer.update_layer(adapter_name, peft_config, current_key)
        setattr(parent, target_name, layer)

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        # PEFT's own `modules_to_save` matches bare endings: "classifier" would also take
        # DistilBERT's "pre_classifier", where the TT layer stands. So full names are wrapped here.
        for name in self._trained:
            self._train_whole(model, name, adapter_name)

    def _train_whole(self, model: nn.Module, name: str, adapter_name: str) -> None:
        """Train and save a copy of a module for this adapter, the original staying as it was."""
        inference_mode = self.peft_config[adapter_name].inference_mode
        module = model.get_submodule(name)
        if isinstance(module, ModulesToSaveWrapper):
            module.update(adapter_name)
            module.set_adapter(module.active_adapter, inference_mode=inference_mode)
            return
        if isinstance(module, BaseTunerLayer):
            raise ConfigError(f"{name} is a TT layer of another adapter, so it cannot train whole")
        wrapper = ModulesToSaveWrapper(module, adapter_name)
        active = [adapter_name] if adapter_name in self.active_adapters else []
        wrapper.set_adapter(active, inference_mode=inference_mode)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, wrapper)

    def _check_merge_allowed(self) -> None:
        raise ConfigError(NOT_MERGEABLE)


def _rename_task_heads(peft_config: TTAdapterConfig, heads: list[str]) -> None:
    """Replace the heads that PEFT's task classes appended by the exact modules trained here.

    PEFT's task classes read the list again afterwards and need it non-empty. Names that start at
    the PeftModel match exactly, there and nowhere else, and find the modules already wrapped.
    """
    exact = [_IN_PEFT_MODEL + name for name in heads]
    peft_config.modules_to_save = _named_by_user(peft_config) + exact


def _named_by_user(peft_config: TTAdapterConfig) -> list[str]:
    names = peft_config.modules_to_save or []
    return [n for n in names if n not in _TASK_HEADS and not n.startswith(_IN_PEFT_MODEL)]
