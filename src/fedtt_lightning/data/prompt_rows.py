"""Tokenized prompts as datasets: to train on, to choose in, and to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from fedtt_lightning.data.prompts import Prompt, encode_answers, encode_questions
from fedtt_lightning.data.token_cache import cache_key, cached_tokens
from fedtt_lightning.data.token_rows import Lists, TokenRows
from fedtt_lightning.errors import ConfigError


class PromptEncoder:
    """Makes datasets of prompts, each sequence at most `max_length` tokens long.

    How many contexts had to be cut is shown in one line a dataset.

    Args:
        tokenizer: one that `load_tokenizer` returned.
        max_length: longest sequence in tokens, see `encode_answers`.
        keep: whether tokens are kept in the user's cache folder, see `cached_tokens`.
        task: name for messages.

    Raises ConfigError for a tokenizer without an end token.
    """

    def __init__(self, tokenizer: Any, max_length: int, keep: bool, task: str) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "data.tokenizer has no end token, in which generated answers end; set eos_token in "
                "its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.keep = keep
        self.task = task

    def training_rows(self, prompts: Sequence[Prompt]) -> TokenRows:
        """Return {"input_ids", "labels", ...}: each prompt with the first of its right answers.

        A generated answer ends in the end token, a candidate in none. Further columns are `label`
        (where all prompts have one), `where` and those of the prompts. ConfigError for a prompt
        without an answer.
        """
        for prompt in prompts:
            if not prompt.answers:
                raise ConfigError(f"{prompt.name}: the row has no answer, so nothing trains on it")
        answers = [prompt.answers[:1] for prompt in prompts]
        return _rows(prompts, self._encode(prompts, answers, end=prompts[0].candidates is None))

    def candidate_rows(self, prompts: Sequence[Prompt]) -> CandidateRows:
        """Return each prompt with all its candidates, or raise ConfigError if two are the same."""
        for prompt in prompts:
            if not prompt.candidates:
                raise ConfigError(f"{prompt.name}: there are no candidates to choose from")
        answers = [prompt.candidates or () for prompt in prompts]
        return CandidateRows(prompts, self._encode(prompts, answers, end=False), self.task)

    def question_rows(self, prompts: Sequence[Prompt]) -> QuestionRows:
        """Return prompts to go on from, with their right answers as text."""

        def make() -> dict[str, Lists]:
            return encode_questions(self.tokenizer, prompts, self.max_length)

        once = [()] * len(prompts)
        return QuestionRows(prompts, self._made(prompts, once, "questions", make))

    def _encode(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], end: bool
    ) -> dict[str, Lists]:
        def make() -> dict[str, Lists]:
            return encode_answers(self.tokenizer, prompts, answers, self.max_length, end)

        form = f"answers of one context, then {self.tokenizer.eos_token_id if end else None}"
        return self._made(prompts, answers, form, make)

    def _made(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[str]],
        form: str,
        make: Callable[[], dict[str, Lists]],
    ) -> dict[str, Lists]:
        """Return what `make` does, from the cache where it is; count and show what was cut."""
        columns = {
            "form": [form],
            "context": [prompt.context for prompt in prompts],
            "question": [prompt.question for prompt in prompts],
            "answers": [json.dumps(list(texts)) for texts in answers],
        }
        key = cache_key(self.tokenizer, self.max_length, columns) if self.keep else ""
        tokens = dict(cached_tokens(key, make) if self.keep else make())
        firsts = np.cumsum([0, *(max(len(texts), 1) for texts in answers[:-1])])
        cut = tokens.pop("cut").values.numpy()[firsts]
        if cut.any():
            rank_zero_info(
                f"{self.task}: {np.count_nonzero(cut)} of {len(cut)} contexts were cut to fit "
                f"data.max_length={self.max_length}, by {cut[cut > 0].mean():.1f} tokens on average"
            )
        return tokens


class CandidateRows:
    """Examples with a tokenized sequence for each candidate, see `PadForEvaluation`.

    Raises ConfigError if two candidates of an example have the same tokens, since no score could
    tell them apart; warns if the first token never tells them apart.
    """

    def __init__(self, prompts: Sequence[Prompt], tokens: dict[str, Lists], task: str) -> None:
        counts = [len(prompt.candidates or ()) for prompt in prompts]
        owners = [
            prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)
        ]
        self._sequences = _rows(owners, tokens)
        self._bounds = np.cumsum([0, *counts])
        self._prompts = prompts
        alike = sum(self._begin_alike(index) for index in range(len(prompts)))
        if alike == len(prompts):
            rank_zero_warn(
                f"{task}: the candidates of every example begin with the same token; they are told "
                "apart by their later tokens alone"
            )

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        prompt = self._prompts[index]
        rows = range(self._bounds[index], self._bounds[index + 1])
        example: dict[str, Any] = {
            "candidates": [self._sequences[row] for row in rows],
            "answers": [text.strip() for text in prompt.candidates or ()],
            "label": -1 if prompt.label is None else prompt.label,
        }
        if prompt.group is not None:
            example["group"] = prompt.group
        if prompt.label is None and prompt.answers:
            example["gold"] = [text.strip() for text in prompt.answers]
        return example

    def _begin_alike(self, index: int) -> bool:
        """Tell whether all candidates begin with the same token; ConfigError if two are equal."""
        texts: dict[tuple[int, ...], str] = {}
        example = self[index]
        for row, text in zip(example["candidates"], example["answers"], strict=True):
            labels = row["labels"]
            answer = tuple(labels[labels >= 0].tolist())
            if answer in texts:
                raise ConfigError(
                    f"{self._prompts[index].name}: the candidates {texts[answer]!r} and {text!r} "
                    "have the same tokens, so no score can tell them apart; use another tokenizer, "
                    "or leave one of them out"
                )
            texts[answer] = text
        return len(texts) > 1 and len({answer[0] for answer in texts}) == 1


class NumberedRows:
    """Some rows of a dataset by the numbers that they have in the whole of it."""

    def __init__(self, rows: Any, numbers: Sequence[int]) -> None:
        self._rows = rows
        self._places = {number: place for place, number in enumerate(numbers)}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Any:
        return self._rows[self._places[number]]


class QuestionRows:
    """Examples {"input_ids", "references"}, see `PadForEvaluation`."""

    def __init__(self, prompts: Sequence[Prompt], tokens: dict[str, Lists]) -> None:
        self._sequences = _rows(prompts, tokens)
        self._prompts = prompts

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        references = [text.strip() for text in self._prompts[index].answers]
        return {**self._sequences[index], "references": references}


def _rows(prompts: Sequence[Prompt], tokens: dict[str, Lists]) -> TokenRows:
    """Return tokens with the columns that partitions and messages use."""
    from datasets import Dataset

    columns: dict[str, list[Any]] = {"where": [prompt.where for prompt in prompts]}
    if all(prompt.label is not None for prompt in prompts):
        columns["label"] = [prompt.label for prompt in prompts]
    for name in prompts[0].columns:
        columns[name] = [prompt.columns[name] for prompt in prompts]
    return TokenRows(Dataset.from_dict(columns), tokens)
