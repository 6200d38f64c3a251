"""Which tensors are the A and B of a LoRA, by the names PEFT gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterSchema

_LORA = re.compile(r"^(.*)lora_(embedding_)?([AB])\.(?!.*bias$)(.+)$")


def lora_factor(name: str) -> str | None:
    """Return "A" or "B" if the name is that of a LoRA factor (Hu et al., arXiv 2106.09685)."""
    match = _LORA.match(name)
    return match[3] if match else None


def lora_pairs(names: Sequence[str]) -> dict[str, list[str]]:
    """Group the names of LoRA factors, A (r x in) before B (out x r), by what both have in common.

    A group has one name if the other factor is not among `names`.
    """
    pairs: dict[str, list[str]] = {}
    for name in sorted(names):  # puts A before B
        if match := _LORA.match(name):
            pairs.setdefault(f"{match[1]}lora_{match[2] or ''}*.{match[4]}", []).append(name)
    return pairs


def is_embedding(pair: str) -> bool:
    """Tell whether a group of `lora_pairs` belongs to an embedding, whose A starts at zero."""
    return "lora_embedding_*" in pair


def check_lora(schema: AdapterSchema, rule: str) -> None:
    """Raise ConfigError if there is no LoRA, or if of some only one factor is trainable."""
    pairs = lora_pairs(schema.names)
    if not pairs:
        raise ConfigError(
            f"federation.aggregation {rule} needs LoRA factors, but no trainable parameter is one: "
            "set model.peft to peft.LoraConfig, or aggregate with TTRounding for TT adapters, else "
            "with WeightedMean"
        )
    for pair, found in pairs.items():
        if len(found) != 2:
            raise ConfigError(
                f"federation.aggregation {rule} needs A and B of {pair}, but only {found[0]} is "
                "trainable and shared: freeze by rounds with FactorFreezing, not by requires_grad"
            )
