"""What a causal language model is called with, whichever way its examples are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError

_WITH_MASKS = ("sdpa", "eager")


def decoder_inputs(batch: Mapping[str, Any], model: Any) -> dict[str, Tensor]:
    """Return the arguments of `model` for `input_ids` (R, T).

    Rows are padded left or right as `attention_mask` (R, T) says; positions are counted from each
    row's first token, so padding changes nothing. Or they are packed: `segments` (R, T) is 0 for
    padding and k for the k-th example of its row, which sees itself alone, and `position_ids`
    (R, T) starts at 0 in each.

    Raises:
        ConfigError: rows are longer than the model's positions, or packed for a model that has no
            mask of one's own.
    """
    ids = batch["input_ids"]
    _check_length(ids.shape[1], model)
    inputs = {"input_ids": ids}
    prompt = getattr(model, "active_peft_config", None)
    prompted = prompt is not None and prompt.is_prompt_learning
    if "segments" in batch:
        _check_packing(ids.shape[1], model, prompted)
        additive = model.config._attn_implementation == "eager"
        inputs["attention_mask"] = packed_mask(batch["segments"], _compute_dtype(model), additive)
        inputs["position_ids"] = batch["position_ids"]
        return inputs
    mask = batch["attention_mask"]
    inputs["attention_mask"] = mask
    if not prompted:  # PEFT puts tokens of its own before, and counts by itself
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs


def check_fits(model: Any, max_length: int | None) -> None:
    """Raise ConfigError, before training, if the data's longest rows are too long for the model.

    Args:
        max_length: of the data, in tokens; None if it has none.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and max_length is not None and max_length > longest:
        raise ConfigError(
            f"data.max_length {max_length} is more than the {longest} positions of "
            "model.backbone: lower it"
        )


def check_prompts_fit(model: Any, prompt: int, written: int) -> None:
    """Raise ConfigError if the longest prompt and what is written after it are too long.

    Args:
        prompt: tokens of the longest prompt, 0 if there is none.
        written: tokens that may be generated after it.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and prompt and prompt + written > longest:
        raise ConfigError(
            f"prompts of {prompt} tokens and {written} to generate are more than the model's "
            f"{longest} positions: set data.max_length or model.generate_max_tokens lower"
        )


def packed_mask(segments: Tensor, dtype: torch.dtype, additive: bool) -> Tensor:
    """Return (R, 1, T, T): whether a position sees another, of its own example and not after it.

    `additive` gives 0 and the least number of `dtype` in place of True and False. Padding sees
    padding, so that no row is without anything to see, which would be NaN.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen = (segments.unsqueeze(2) == segments.unsqueeze(1)) & causal
    if not additive:
        return seen.unsqueeze(1)
    least = torch.finfo(dtype).min
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, least).unsqueeze(1)


def _check_length(length: int, model: Any) -> None:
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ConfigError(
            f"a batch has rows of {length} tokens, but the model has {longest} positions: lower "
            "data.max_length (and model.generate_max_tokens, if it generates)"
        )


def _check_packing(length: int, model: Any, prompted: bool) -> None:
    kind, window = model.config._attn_implementation, getattr(model.config, "sliding_window", None)
    if kind not in _WITH_MASKS:
        raise ConfigError(
            f"data.packing needs a mask of its own, which attention {kind!r} does not take: set "
            f"model.attn_implementation to {' or '.join(_WITH_MASKS)}, or data.packing to false"
        )
    if prompted:
        raise ConfigError(
            "data.packing does not work with prompts that model.peft puts before each row: set it "
            "to false, or choose another method, such as LoRA"
        )
    if window is not None and length > window:
        raise ConfigError(
            f"data.packing makes rows of {length} tokens, longer than the model's sliding window "
            f"of {window}: lower data.max_length, or set data.packing to false"
        )


def _compute_dtype(model: Any) -> torch.dtype:
    """Return the dtype of attention weights."""
    device = next(model.parameters()).device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype
