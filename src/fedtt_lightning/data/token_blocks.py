"""Texts for language modelling: cut into blocks, each token predicted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.nn.utils.rnn import pad_sequence

from fedtt_lightning.data.prompts import to_lists
from fedtt_lightning.data.token_cache import cache_key, cached_tokens
from fedtt_lightning.data.token_rows import Lists, TokenRows
from fedtt_lightning.errors import ConfigError

_CHUNK = 1000  # texts tokenized at a time: lists of Python numbers take ten times the memory


def block_rows(tokenizer: Any, rows: Any, length: int, keep: bool) -> TokenRows:
    """Return a row for each block of the texts in column `text`, with their other columns.

    Texts are encoded as the tokenizer does by itself, and cut by `cut_blocks`; with `keep` their
    tokens stay in the user's cache folder, see `cached_tokens`. How many texts have nothing to
    predict is shown; raises ConfigError if none has anything.
    """
    texts = list(rows["text"])

    def tokens() -> dict[str, Lists]:
        chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
        return {
            "input_ids": to_lists(
                [
                    np.array(ids, np.int32)
                    for chunk in chunks
                    for ids in tokenizer(chunk, return_attention_mask=False, verbose=False)[
                        "input_ids"
                    ]
                ]
            )
        }

    # Whole texts are kept under a length that no cut ones have.
    made = cached_tokens(cache_key(tokenizer, 0, {"text": texts}), tokens) if keep else tokens()
    blocks, owners = cut_blocks(made["input_ids"], length)
    if not len(owners):
        raise ConfigError("data: no text has two tokens, and a single one predicts nothing")
    if short := len(texts) - len(np.unique(owners)):
        rank_zero_info(f"{short} of {len(texts)} texts have no second token to predict: left out")
    return TokenRows(rows.remove_columns("text").select(owners), {"input_ids": blocks})


def cut_blocks(tokens: Lists, length: int) -> tuple[Lists, np.ndarray]:
    """Cut lists of tokens into blocks of at most `length`, and tell which list each is from.

    A block begins with the last token of the one before it, so that every token but a list's first
    is predicted once, and none is dropped. A list of fewer than two tokens has nothing to predict
    and makes no block.
    """
    starts = tokens.starts.numpy()
    counts = np.maximum(-(-(np.diff(starts) - 1) // (length - 1)), 0)
    owners = np.repeat(np.arange(len(counts)), counts)
    numbers = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = starts[owners] + numbers * (length - 1)
    ends = np.minimum(begins + length, starts[owners + 1])
    parts = [tokens.values[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    values = torch.cat(parts) if parts else tokens.values[:0]
    return Lists(values, torch.from_numpy(np.concatenate([[0], np.cumsum(ends - begins)]))), owners


@dataclass(frozen=True)
class BlockBatch:
    """Collate blocks into `input_ids`, `attention_mask`, `labels`: int64 [batch, longest].

    Padded on the right, where labels are -100; every token is a label.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        blocks = [torch.as_tensor(example["input_ids"]).long() for example in examples]
        labels = pad_sequence(blocks, batch_first=True, padding_value=-100)
        return {
            "input_ids": labels.masked_fill(labels == -100, self.pad_token_id),
            "attention_mask": (labels != -100).long(),
            "labels": labels,
        }
