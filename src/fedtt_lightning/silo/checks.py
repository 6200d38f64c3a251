"""What clients that train in simulations alone can do."""

from __future__ import annotations

from collections.abc import Iterator

from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.lora_merging import LoRAMerging
from fedtt_lightning.callbacks.parts import with_hook


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
