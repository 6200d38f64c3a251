"""What DP-SGD in clients cannot work with; each reason with the key to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from typing import TYPE_CHECKING

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from fedtt_lightning.callbacks.lightning_private import is_compiled
from fedtt_lightning.callbacks.parts import trainable_parameters
from fedtt_lightning.callbacks.scaffold import Scaffold
from fedtt_lightning.data.client_data import ClientDataModule
from fedtt_lightning.errors import ConfigError

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.local_dp import LocalDP

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")
_POSITIONS = re.compile(r"position|relative_attention_bias|(^|\.)wpe$", re.IGNORECASE)
_SHOWN = 3


def local_dp_problems(
    settings: LocalDP, trainer: Trainer, module: LightningModule
) -> Iterator[str]:
    """Give a line for each setting, trainer option and module that breaks private training."""
    yield from _settings(settings)
    yield from _trainer(trainer)
    yield from _module(module)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if (count := sum(isinstance(callback, type(settings)) for callback in callbacks)) > 1:
        yield f"trainer.callbacks holds {count} {type(settings).__name__}: leave one"
    if any(isinstance(callback, Scaffold) for callback in callbacks):
        yield (
            "Scaffold in trainer.callbacks uploads control variates, means of raw gradients "
            "without noise: remove it, or use FedProx, which local DP allows"
        )


def _settings(settings: LocalDP) -> Iterator[str]:
    epsilon, noise = settings.epsilon, settings.noise_multiplier
    if epsilon is None and noise is None:
        yield "LocalDP has neither epsilon nor noise_multiplier: give one, or both"
    if epsilon is not None and not (epsilon > 0 and isfinite(epsilon)):
        yield f"LocalDP's epsilon is {epsilon}, but must be a number > 0"
    if noise is not None and not (noise >= 0 and isfinite(noise)):
        yield f"LocalDP's noise_multiplier is {noise}, but must be a number >= 0"
    if noise == 0 and epsilon is not None:
        yield "LocalDP's noise_multiplier 0 protects nothing: leave epsilon out, or raise it"
    if not 0 < settings.delta < 1:
        yield f"LocalDP's delta is {settings.delta}, but must lie between 0 and 1"
    if not (settings.clip > 0 and isfinite(settings.clip)):
        yield f"LocalDP's clip is {settings.clip}, but must be a number > 0"
    if settings.accountant not in ("rdp", "prv", "gdp"):
        yield f"LocalDP's accountant is {settings.accountant!r}, but must be rdp, prv or gdp"


def _trainer(trainer: Trainer) -> Iterator[str]:
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        yield (
            "trainer.max_epochs is not limited, but LocalDP accounts for the planned rounds: set "
            "it to the number of rounds"
        )
    if trainer.gradient_clip_val:
        yield (
            f"trainer.gradient_clip_val is {trainer.gradient_clip_val}, which clips whole "
            "batches after the noise: remove it; LocalDP's clip bounds each example's gradient"
        )
    if trainer.accumulate_grad_batches != 1:
        yield (
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but LocalDP "
            "accounts for every batch: set it to 1 and data.batch_size to the batch of a step"
        )
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, ClientDataModule) and data.loader.group_by_length:
        yield (
            "data.group_by_length is on, but LocalDP draws each example of a batch by itself, as "
            "its accounting assumes: turn it off"
        )
    if getattr(data, "packing", False):
        yield (
            "data.packing lays several examples out in a row, but LocalDP clips the gradient of "
            "each: turn it off"
        )
    if trainer.precision not in _PRECISIONS:
        yield (
            f"trainer.precision is {trainer.precision}, which may leave out steps or round the "
            f"noise: use one of {', '.join(_PRECISIONS)}"
        )
    strategy = type(trainer.strategy)
    if not issubclass(strategy, SingleDeviceStrategy) and not hasattr(strategy, "silo"):
        yield (
            f"trainer.strategy {strategy.__name__} averages gradients before LocalDP can clip each "
            "example's: set trainer.strategy to silo_ddp, or trainer.devices to 1 and strategy to "
            "auto"
        )


def _module(module: LightningModule) -> Iterator[str]:
    from fedtt_lightning.privacy.per_example import recomputed  # opacus takes seconds

    if not module.automatic_optimization:
        yield (
            f"{type(module).__name__}.automatic_optimization is False, but LocalDP must see each "
            "step: set it to True and return the loss from training_step"
        )
    if is_compiled(module):
        yield (
            f"{type(module).__name__} is compiled, but hooks on its modules take each example's "
            "gradient: leave torch.compile out"
        )
    names = {id(p): name for name, p in trainable_parameters(module).items()}
    listed: list[str] = []
    for path, part in module.named_modules():
        own = [names[id(p)] for p in part.parameters(recurse=False) if id(p) in names]
        if isinstance(part, _BatchNorm) and (own or part.training or not part.track_running_stats):
            yield (
                f"{path} is a {type(part).__name__}, in which one example changes the others: use "
                "GroupNorm or LayerNorm, or put it into eval mode and freeze it"
            )
        elif own and isinstance(part, nn.Embedding) and _POSITIONS.search(path):
            yield (
                f"{own[0]} trains, but position embeddings are shared by a batch and have no "
                "gradient for each example: freeze them (model.trainable or model.peft)"
            )
        elif isinstance(part, (nn.ParameterList, nn.ParameterDict)):
            listed += own
        if own and recomputed(part) and (rate := _dropout(part)):
            yield (
                f"{path or 'the module'} has dropout {rate:g} among parameters of its own, and to "
                "get each example's gradient it is computed a second time, with another mask: set "
                "its dropout to 0, or put parameters and dropout into modules of their own"
            )
        if getattr(part, "gradient_checkpointing", False):
            yield (
                f"{path or 'the module'} recomputes activations (gradient checkpointing), which "
                "counts examples twice: turn it off"
            )
    if listed:
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        yield (
            f"{', '.join(listed[:_SHOWN])}{more} lie in a ParameterList or ParameterDict, whose "
            "entries have no gradient for each example, as in (IA)3: choose another model.peft, or "
            "register them on the module that uses them"
        )


def _dropout(module: nn.Module) -> float:
    """Return the largest rate of dropout in a module, as a layer or as its own number."""
    rates = [getattr(part, "p", 0.0) for part in module.modules() if isinstance(part, _DropoutNd)]
    own = [getattr(part, "dropout", 0.0) for part in module.modules()]
    return max([*rates, *(rate for rate in own if isinstance(rate, float))], default=0.0)


def only_optimizer(trainer: Trainer, module: LightningModule) -> Optimizer:
    """Return the optimizer, of which Lightning takes one.

    Raises:
        ConfigError: it leaves tensors out, or layers made since `setup` do not fit.
    """
    if problems := [*_module(module)]:
        raise ConfigError("\n".join(problems))
    (optimizer,) = trainer.optimizers
    steps = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in trainable_parameters(module).items() if id(p) not in steps]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ConfigError(
            f"the module's configure_optimizers leaves out {missing[0]}{more}, which require "
            "gradients: freeze them or hand them to the optimizer"
        )
    return optimizer
