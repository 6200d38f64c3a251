"""What a causal language model writes after a prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules.decoder_inputs import check_prompts_fit


@torch.no_grad()
def generate_texts(
    model: Any, tokenizer: Any, batch: Mapping[str, Tensor], max_tokens: int
) -> list[str]:
    """Return what follows each prompt, greedily chosen, up to a special token or `max_tokens`.

    Args:
        batch: `input_ids` and `attention_mask` (B, T), padded on the left.

    Raises:
        ConfigError: prompt and answer do not fit the model's positions.
    """
    ids = batch["input_ids"]
    check_prompts_fit(model, ids.shape[1], max_tokens)
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = list(ends) if isinstance(ends, list) else [ends]
    # The tokenizer's too, in which training answers end: a model's files may name another. And any
    # token that is no text: a chat's turn may end in one of its own.
    marks = [mark for mark in tokenizer.all_special_ids if mark != tokenizer.unk_token_id]
    ends = [end for end in dict.fromkeys([*ends, *marks]) if end is not None]
    pad = tokenizer.pad_token_id
    if pad is None and ends:
        pad = ends[0]
    config = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=ends or None,
        pad_token_id=pad,
    )
    made = model.generate(
        input_ids=ids, attention_mask=batch["attention_mask"], generation_config=config
    )
    texts = tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def load_text_tokenizer(key: str, name: str) -> Any:
    """Return the tokenizer that `key` of the config names, to write what is generated as text.

    Raises:
        ConfigError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(os.path.expanduser(name))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{key}={name} has no tokenizer to write what is generated ({reason}): save the "
            "model's tokenizer there"
        ) from None
