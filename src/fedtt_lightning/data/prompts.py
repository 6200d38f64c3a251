"""An example as text to go on from, and its tokens: only the context may ever be cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch

from fedtt_lightning.data.token_rows import Lists
from fedtt_lightning.errors import ConfigError

IGNORED = -100
_CHUNK = 1000  # prompts tokenized at a time: lists of Python numbers take ten times the memory


@dataclass(frozen=True)
class Prompt:
    """An example before it is tokenized; its text is context + question + answer, nothing between.

    A context ends, and an answer begins, with a space or line end where the language has one: a
    token over either seam counts as what comes after.

    Attributes:
        context: what may be cut to fit, from its beginning: what stands next to the question stays.
        question: what is never cut.
        answers: the right answers, of which training takes the first; none where unknown.
        candidates: the answers to choose from, None where the answer is generated.
        label: index of the right candidate, or any class that partitions by label may use.
        group: what examples that are judged together share, such as a question of MultiRC.
        where: file and line, for messages.
        columns: further columns of the training data, for partitions.
    """

    context: str
    question: str
    answers: tuple[str, ...] = ()
    candidates: tuple[str, ...] | None = None
    label: int | None = None
    group: str | None = None
    where: str = ""
    columns: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a message calls it."""
        return self.where or f"the example {self.question.strip()[:40]!r}"


def encode_answers(
    tokenizer: Any,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[str]],
    max_length: int,
    end: bool,
) -> dict[str, Lists]:
    """Return the tokens of each prompt with each of its answers, one list a (prompt, answer).

    `input_ids` are those the tokenizer gives the whole text, `labels` the same for the answer and
    -100 elsewhere, `cut` how many tokens of the context were left out so that the prompt fits
    `max_length` with its longest answer: all its answers follow the same context. With `end` an
    answer ends in the tokenizer's end token, without it in none.

    Raises ConfigError, naming the example, where question and answer do not fit or an answer has no
    tokens.
    """
    columns: dict[str, list[np.ndarray]] = {"input_ids": [], "labels": [], "cut": []}
    for chunk in _chunks(len(prompts)):
        some, theirs = prompts[chunk], answers[chunk]
        pairs = [(i, a) for i, group in enumerate(theirs) for a in group]
        fixed = _fixed(tokenizer, some)
        wholes = _ids(tokenizer, [some[i].context + some[i].question + a for i, a in pairs])
        longest = [0] * len(some)
        for (index, _), ids in zip(pairs, wholes, strict=True):
            longest[index] = max(longest[index], len(ids) + end)
        for (index, answer), ids in zip(pairs, wholes, strict=True):
            head, free = fixed[index]
            start = common(head, ids)
            ids = [*ids, tokenizer.eos_token_id] if end else ids
            if len(ids) == start:
                raise ConfigError(
                    f"{some[index].name}: the answer {answer!r} has no tokens; give it text that "
                    "the tokenizer knows"
                )
            first = _first(tokenizer, ids)
            cut = _cut(some[index], longest[index], min(free, start), max_length, first)
            kept = np.array(_without(ids, cut), np.int32)
            labels = kept.copy()
            labels[: start - len(cut)] = IGNORED
            for name, values in zip(columns, (kept, labels, np.array([len(cut)])), strict=True):
                columns[name].append(values)
    return {name: to_lists(rows) for name, rows in columns.items()}


def encode_questions(
    tokenizer: Any, prompts: Sequence[Prompt], max_length: int
) -> dict[str, Lists]:
    """Return `input_ids` of each context and question, to be gone on from, and `cut` as above."""
    columns: dict[str, list[np.ndarray]] = {"input_ids": [], "cut": []}
    for chunk in _chunks(len(prompts)):
        some = prompts[chunk]
        for prompt, (ids, free) in zip(some, _fixed(tokenizer, some), strict=True):
            cut = _cut(prompt, len(ids), free, max_length, _first(tokenizer, ids))
            columns["input_ids"].append(np.array(_without(ids, cut), np.int32))
            columns["cut"].append(np.array([len(cut)]))
    return {name: to_lists(rows) for name, rows in columns.items()}


def to_lists(rows: Sequence[Any]) -> Lists:
    """Return sequences of integers as one column."""
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(rows), np.int32, int(starts[-1]))
    return Lists(torch.from_numpy(flat), torch.from_numpy(starts))


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading tokens two lists share."""
    if first == second[: len(first)]:
        return len(first)
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _fixed(tokenizer: Any, prompts: Sequence[Prompt]) -> list[tuple[list[int], int]]:
    """Return each prompt's tokens, and how many of the first are the context's alone."""
    contexts = _ids(tokenizer, [prompt.context for prompt in prompts])
    heads = _ids(tokenizer, [prompt.context + prompt.question for prompt in prompts])
    return [(head, common(alone, head)) for alone, head in zip(contexts, heads, strict=True)]


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the tokens of texts with what the tokenizer puts before them, and nothing after."""
    if not texts:
        return []
    rows = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
    eos = tokenizer.eos_token_id
    return [row[:-1] if row and row[-1] == eos else row for row in rows]


def _first(tokenizer: Any, ids: list[int]) -> int:
    """Return where the context begins: after the token that begins every text, if there is one."""
    return int(bool(ids) and ids[0] == tokenizer.bos_token_id)


def _cut(prompt: Prompt, length: int, free: int, max_length: int, first: int) -> range:
    """Return the positions of the context's tokens to leave out."""
    over = max(length - max_length, 0)
    if over > max(free - first, 0):
        raise ConfigError(
            f"{prompt.name}: question and answer take {length - max(free - first, 0)} tokens, "
            f"more than data.max_length={max_length}; raise it, or shorten them"
        )
    return range(first, first + over)


def _without(ids: list[int], cut: range) -> list[int]:
    return ids[: cut.start] + ids[cut.stop :]


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, size, _CHUNK))
