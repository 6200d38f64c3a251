"""What LoRA would send on a model at hand, to set beside what a run sent."""

from __future__ import annotations

import torch
from peft import TaskType
from torch import nn
from transformers import PreTrainedModel

from fedtt_lightning.account.methods import lora_tensors, message_size


def lora_reference(
    module: nn.Module, head_parameters: int = 0, r: int = 8, dtype: torch.dtype = torch.float32
) -> tuple[int, int] | None:
    """Return the trainable parameters and the bytes of one upload of LoRA.

    Counted with PEFT's default targets on a copy, on the meta device, of the shapes of the first
    transformers model in `module`, which may hold adapters. `head_parameters` values that train
    besides are added. None if there is no such model or PEFT knows no targets for its family.
    """
    base = next((part for part in module.modules() if isinstance(part, PreTrainedModel)), None)
    if base is None:
        return None
    with torch.device("meta"):
        bare = type(base)(base.config)
    try:
        tensors = lora_tensors(bare, r, TaskType.FEATURE_EXTRACTION)
    except ValueError:
        return None
    if head_parameters:
        tensors["head"] = torch.empty(head_parameters, device="meta")
    return sum(tensor.numel() for tensor in tensors.values()), message_size(tensors, dtype)
