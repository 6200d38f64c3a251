"""What an experiment may hold that a server and its silos cannot do together."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.central_dp import CentralDP
from fedtt_lightning.callbacks.early_signs import EarlySigns
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.lora_merging import LoRAMerging
from fedtt_lightning.callbacks.parts import with_hook
from fedtt_lightning.federation import ModularSum, PrivateMean, SecureRule
from fedtt_lightning.silo.serve_settings import ServeSettings


def simulation_problems(trainer: Trainer) -> Iterator[str]:
    """Give a line for everything that server and silos cannot do together."""
    if find_federation(trainer).failures is not None:
        yield "federation.failures simulates silos that fail: remove it"
    for callback in with_hook(trainer, "client_extra"):
        yield (
            f"{type(callback).__name__} in trainer.callbacks sends more than updates, which silos "
            "do not: remove it"
        )
    if any(isinstance(callback, LoRAMerging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        yield (
            "LoRAMerging in trainer.callbacks changes the server's backbone, of which silos learn "
            "nothing: choose another federation.aggregation than FLoRA, and remove it"
        )


def secure_problems(trainer: Trainer) -> Iterator[str]:
    """Give a line for everything that secure aggregation cannot work with."""
    if find_spec("cryptography") is None or find_spec("Crypto") is None:
        yield "secure_aggregation needs two libraries: pip install 'fedtt-lightning[flower]'"
    rule = find_federation(trainer).aggregation
    name = type(rule).__name__
    if not isinstance(rule, SecureRule):
        yield (
            f"secure_aggregation gives federation.aggregation {name} no single update: set it to "
            "SecureMean, or to PrivateMean with a codec"
        )
        return
    if rule.bits is None:
        yield (
            f"secure_aggregation adds integers: set federation.aggregation.codec of {name} to "
            "fedtt_lightning.federation.FixedPointCodec"
        )
    if type(getattr(rule, "transport", None) or ModularSum()) is not ModularSum:
        yield "federation.aggregation.transport is for simulations: remove it"
    if isinstance(rule, PrivateMean) and rule.quantile is not None:
        yield (
            "federation.aggregation.quantile moves a clip that silos are not told of under "
            "secure_aggregation: remove it"
        )


def single_update_problems(trainer: Trainer, settings: ServeSettings) -> Iterator[str]:
    """Give a line for everything at the server that looks at the updates of single clients."""
    if settings.silos < 2:
        yield "secure_aggregation hides nothing in a sum over one silo: set it to false"
    if settings.max_update_norm is not None:
        yield (
            "serve.max_update_norm looks at single updates, of which secure_aggregation shows "
            "none: remove it"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        hooks = ("on_client_update", "client_extra")
        looks = isinstance(callback, EarlySigns) or any(hasattr(callback, hook) for hook in hooks)
        if looks and not isinstance(callback, CentralDP):  # for which a silo's NaN count as zero
            yield (
                f"{type(callback).__name__} in trainer.callbacks looks at single updates, of which "
                "secure_aggregation shows none: remove it"
            )
