"""Tokenized conversations: to learn all replies of, or to go on from before the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from fedtt_lightning.data.chat import (
    DATE,
    Conversation,
    shorten,
    write_conversation,
    write_question,
)
from fedtt_lightning.data.prompt_rows import QuestionRows
from fedtt_lightning.data.prompts import IGNORED, Prompt, to_lists
from fedtt_lightning.data.token_cache import cache_key, cached_tokens
from fedtt_lightning.data.token_rows import Lists, TokenRows
from fedtt_lightning.errors import ConfigError

Encoded = tuple[np.ndarray, np.ndarray]  # tokens, labels


class ChatEncoder:
    """Makes datasets of conversations, each at most `max_length` tokens long.

    How many had to be shortened, see `shorten`, is shown in one line a dataset.

    Args:
        tokenizer: one that `load_tokenizer` returned.
        max_length: longest conversation in tokens.
        keep: whether tokens are kept in the user's cache folder, see `cached_tokens`.

    Raises ConfigError for a tokenizer without an end token, or without places of its tokens.
    """

    def __init__(self, tokenizer: Any, max_length: int, keep: bool) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "data.tokenizer has no end token, in which replies end; set eos_token in its "
                "tokenizer_config.json"
            )
        if not tokenizer.is_fast:
            raise ConfigError(
                "data.tokenizer does not tell where its tokens stand; name one with a "
                "tokenizer.json"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.keep = keep

    def training_rows(self, conversations: Sequence[Conversation]) -> TokenRows:
        """Return {"input_ids", "labels", ...}: labels are the tokens of replies, else -100.

        Further columns are those of the conversations. ConfigError for one that cannot be made to
        fit.
        """
        from datasets import Dataset

        names = ["where", *conversations[0].columns]
        columns = {
            name: [{"where": c.where, **c.columns}[name] for c in conversations] for name in names
        }
        tokens = self._made("replies", conversations, self._whole)
        return TokenRows(Dataset.from_dict(columns), tokens)

    def question_rows(self, conversations: Sequence[Conversation]) -> QuestionRows:
        """Return conversations to go on from before their last reply, and that reply as text."""
        tokens = self._made("questions", conversations, self._question)
        prompts = [Prompt("", "", (c.answer,), where=c.where) for c in conversations]
        return QuestionRows(prompts, {"input_ids": tokens["input_ids"]})

    def _made(
        self,
        form: str,
        conversations: Sequence[Conversation],
        encode: Callable[[Conversation], Encoded],
    ) -> dict[str, Lists]:
        def make() -> dict[str, Lists]:
            rows = [self._fitted(conversation, encode) for conversation in conversations]
            columns = zip(*rows, strict=True)
            return dict(zip(("input_ids", "labels", "cut"), map(to_lists, columns), strict=True))

        if self.keep:
            content = {
                "form": [form, str(self.tokenizer.chat_template), DATE],
                "messages": [str(c.messages) for c in conversations],
                "input": [c.input for c in conversations],
            }
            tokens = cached_tokens(cache_key(self.tokenizer, self.max_length, content), make)
        else:
            tokens = make()
        cut = tokens["cut"].values.numpy()
        if cut.any():
            rank_zero_info(
                f"instructions: {np.count_nonzero(cut)} of {len(cut)} conversations were shortened "
                f"to fit data.max_length={self.max_length}, by {cut[cut > 0].mean():.0f} tokens on "
                "average"
            )
        return {name: column for name, column in tokens.items() if name != "cut"}

    def _fitted(
        self, conversation: Conversation, encode: Callable[[Conversation], Encoded]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        now = conversation
        ids, labels = encode(conversation)
        before = len(ids)
        while len(ids) > self.max_length:
            shorter = shorten(self.tokenizer, now, len(ids) - self.max_length)
            if shorter is None:
                raise ConfigError(
                    f"{conversation.where}: what must stay of the conversation takes {len(ids)} "
                    f"tokens, more than data.max_length={self.max_length}; raise it, or shorten it"
                )
            now = shorter
            ids, labels = encode(now)
        return ids, labels, np.array([before - len(ids)])

    def _whole(self, conversation: Conversation) -> Encoded:
        text, replies = write_conversation(self.tokenizer, conversation)
        ids, spans = self._tokens(text)
        learned = np.zeros(len(ids), dtype=bool)
        for begin, end in replies:
            learned |= (spans[:, 1] > begin) & (spans[:, 0] < end) & (spans[:, 0] < spans[:, 1])
        if not learned.any():
            raise ConfigError(
                f"{conversation.where}: the replies have no tokens; give text that the tokenizer "
                "knows"
            )
        return ids, np.where(learned, ids, IGNORED)

    def _question(self, conversation: Conversation) -> Encoded:
        ids, _ = self._tokens(write_question(self.tokenizer, conversation))
        return ids, np.full_like(ids, IGNORED)

    def _tokens(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of a text, and the characters [tokens, 2] that each stands for."""
        encoded = self.tokenizer(
            text,
            # A chat template writes the token that begins a text by itself.
            add_special_tokens=not self.tokenizer.chat_template,
            return_offsets_mapping=True,
            verbose=False,
        )
        ids = np.array(encoded["input_ids"], np.int32)
        spans = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        if len(ids) and ids[-1] == self.tokenizer.eos_token_id and spans[-1, 1] == 0:
            ids, spans = ids[:-1], spans[:-1]  # which the tokenizer has put after the text
        return ids, spans
