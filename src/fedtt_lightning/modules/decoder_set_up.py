"""What is done to a language model before it trains: its precision, and its memory."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

_HALVES = (torch.bfloat16, torch.float16)


def recompute_activations(model: PreTrainedModel) -> None:
    """Let each block of the model compute its activations again in the backward pass.

    The embeddings' output then requires a gradient, as if something before the first block trained:
    adapters in recomputed blocks of a frozen model would else get none from re-entrant checkpoints.
    """
    # Later versions of transformers 5 call it by the first name.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    model.enable_input_require_grads()


def train_in_float32(model: Any) -> torch.dtype | None:
    """Make the weights that train float32, since half precision would round small steps away.

    Returns the dtype to autocast to, if weights had to be changed: PEFT makes adapters float32 by
    itself and they know how to work on a half-precision model; a norm or head that trains does not.
    """
    halves = [p for p in model.parameters() if p.requires_grad and p.dtype in _HALVES]
    dtype = halves[0].dtype if halves else None
    for parameter in halves:
        parameter.data = parameter.data.float()
    return dtype
