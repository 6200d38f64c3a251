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
        """Return each prompt with all its candidates, or raise ConfigError if it has none."""
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

    Candidates of an example that have the same tokens count as one, the first of them, as ReCoRD
    may write an entity in two ways. Where the right one is known by its number, no score could tell
    which is meant: ConfigError. Candidates may begin with the same token, since whole answers are
    scored; a warning says so if in every example some do.
    """

    def __init__(self, prompts: Sequence[Prompt], tokens: dict[str, Lists], task: str) -> None:
        counts = [len(prompt.candidates or ()) for prompt in prompts]
        owners = [
            prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)
        ]
        self._sequences = _rows(owners, tokens)
        self._bounds = np.cumsum([0, *counts])
        self._prompts = prompts
        answers = [self._answers(index) for index in range(len(prompts))]
        self._kept = [list(places.values()) for places in answers]
        if all(len({answer[0] for answer in places}) < len(places) for places in answers):
            rank_zero_warn(
                f"{task}: candidates of every example share a first token; whole answers are "
                "scored, so that their later tokens tell them apart"
            )

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        prompt, kept = self._prompts[index], self._kept[index]
        texts = prompt.candidates or ()
        example: dict[str, Any] = {
            "candidates": [self._sequences[self._bounds[index] + place] for place in kept],
            "answers": [texts[place].strip() for place in kept],
            "label": -1 if prompt.label is None else prompt.label,
        }
        if prompt.group is not None:
            example["group"] = prompt.group
        if prompt.label is None and prompt.answers:
            example["gold"] = [text.strip() for text in prompt.answers]
        return example

    def _answers(self, index: int) -> dict[tuple[int, ...], int]:
        """Return the different answers as tokens, and the first candidate that has each."""
        prompt = self._prompts[index]
        texts = prompt.candidates or ()
        places: dict[tuple[int, ...], int] = {}
        for place, text in enumerate(texts):
            labels = self._sequences[self._bounds[index] + place]["labels"]
            answer = tuple(labels[labels >= 0].tolist())
            first = places.setdefault(answer, place)
            if first != place and prompt.label is not None:
                raise ConfigError(
                    f"{prompt.name}: the candidates {texts[first].strip()!r} and {text.strip()!r} "
                    "have the same tokens, so no score can tell them apart; use another tokenizer, "
                    "or leave one of them out"
                )
        return places


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
    """Examples {"input_ids", "references"}, see `PadForEvaluation`.

    Attributes:
        longest_prompt: tokens of the longest.
    """

    def __init__(self, prompts: Sequence[Prompt], tokens: dict[str, Lists]) -> None:
        self._sequences = _rows(prompts, tokens)
        self._prompts = prompts
        self.longest_prompt = int(self._sequences.lengths.max())

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
