"""FFA-LoRA and RoLoRA: which of LoRA's two factors train in a round."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.freezing import FreezingSchedule

# `lora_A.default.weight`, and `lora_embedding_A.default` of an embedding.
_FACTOR = re.compile(r"(?:^|\.)lora_(embedding_)?([AB])\.")


class LoRASchedule(FreezingSchedule):
    """Freezes one of A and B in all of LoRA's pairs; whatever is in no pair always trains."""

    @abstractmethod
    def frozen(self, round: int) -> str:
        """Return the factor, `A` or `B`, that is frozen in a round (0-based)."""

    def trained(self, names: Sequence[str], round: int, experiment: int = 0) -> frozenset[str]:
        frozen = self.frozen(round)
        return frozenset(name for name in names if _factor(name) != frozen)

    def check(self, names: Sequence[str]) -> None:
        missing = {"A", "B"}.difference(_factor(name) for name in names)
        if missing:
            raise ConfigError(
                f"{type(self).__name__} needs LoRA, but no trainable parameter is a "
                f"lora_{min(missing)}: set model.peft to peft.LoraConfig, or remove the "
                "FactorFreezing callback"
            )
        super().check(names)


class FFALoRA(LoRASchedule):
    """FFA-LoRA (arXiv 2403.12313): A stays at the random start all clients share, B trains."""

    def frozen(self, round: int) -> str:
        return "A"


class RoLoRA(LoRASchedule):
    """RoLoRA (arXiv 2409.02346): rounds counted from 1, odd ones train B and even ones A."""

    def frozen(self, round: int) -> str:
        return "B" if round % 2 else "A"


def _factor(name: str) -> str | None:
    """Return "A" for the factor that starts at random and "B" for the one that starts at zero.

    PEFT calls them so, but in embeddings the other way round.
    """
    match = _FACTOR.search(name)
    if match is None:
        return None
    return {"A": "B", "B": "A"}[match[2]] if match[1] else match[2]
