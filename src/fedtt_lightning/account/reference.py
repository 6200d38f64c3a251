"""What LoRA would send on a model at hand, to set beside what a run sent."""

from __future__ import annotations

import torch
from peft import PeftModel, TaskType
from torch import nn
from transformers import PreTrainedModel

from fedtt_lightning.account.methods import lora_tensors, message_size


def reference_lora_bytes(
    model: nn.Module, head_parameters: int = 0, r: int = 8, dtype: torch.dtype = torch.float32
) -> int | None:
    """Return the bytes of a client's upload a round for LoRA on q and v (PEFT's default targets).

    Counted on a copy of the model's shapes on the meta device; `model` may hold adapters itself.
    `head_parameters` values are added for what trains besides. None for a model that is not of
    transformers, or for whose family PEFT knows no targets.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        return None
    with torch.device("meta"):
        bare = type(base)(base.config)
    try:
        tensors = lora_tensors(bare, r, TaskType.FEATURE_EXTRACTION)
    except ValueError:
        return None
    if head_parameters:
        tensors["head"] = torch.empty(head_parameters, device="meta")
    return message_size(tensors, dtype)
