"""What the datamodules of prompts share: an answer to learn, to choose or to write."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fedtt_lightning.data.client_data import LoaderOptions
from fedtt_lightning.data.partition import Partition, Partitioner
from fedtt_lightning.data.prompt_collate import PackAnswers, PadAnswers, PadForEvaluation
from fedtt_lightning.data.prompt_rows import NumberedRows, PromptEncoder
from fedtt_lightning.data.prompts import Prompt
from fedtt_lightning.data.row_draws import draw_rows, take
from fedtt_lightning.data.text_data import TextData
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import generator_for


class PromptData(TextData):
    """Prompts for causal language models, divided among clients.

    A subclass sets `task`, and reads its examples in `_read`. Training batches hold the answer's
    tokens as labels, see `PadAnswers`; with `packing` the same examples in fewer rows, see
    `PackAnswers`. Evaluation batches hold a row a candidate where prompts have candidates, else
    prompts padded on the left to generate from; see `PadForEvaluation`.

    Prompts longer than `max_length` lose the beginning of their context, never question or answer;
    how many did is shown. In evaluation by generation, `max_length` holds the prompt alone: with
    the model's generate_max_tokens it must fit the model's context.

    Args:
        tokenizer: name on the hub or folder, usually the model's backbone.
        max_length: longest sequence in tokens.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation, test and predict, each with all its
            candidates.
        num_workers: processes that read batches; 0 reads in the main one.
        group_by_length: put prompts of like length into the same training batches, see `TextData`.
        token_cache: keep tokens in the user's cache folder, see `TextData`.
        packing: lay the examples of a training batch out in fewer rows; loss and gradients stay.
        holdout: rows of the training set put aside and used for validation. Rows that are judged
            together (`Prompt.group`) stay together.
        train_limit: use only so many of the other training rows, drawn at random.
        eval_limit: use at most so many rows in validation, test and predict, drawn at random; whole
            groups, at least one.
        split_seed: seed of those three draws; not the experiment's, see `TextData`.
        clients: number of clients, None where `partition` tells.
        partition: how examples go to clients; None is IID.
        client_holdout: share of each client's examples kept for evaluation by client.

    Raises ConfigError for options out of range, a tokenizer that cannot be loaded, rows that cannot
    be read, and an example whose question and answer are longer than `max_length`.
    """

    num_labels = 1

    def __init__(
        self,
        tokenizer: str,
        *,
        max_length: int,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        group_by_length: bool,
        token_cache: bool,
        packing: bool,
        holdout: int,
        train_limit: int | None,
        eval_limit: int | None,
        split_seed: int,
        clients: int | None,
        partition: Partitioner | None,
        client_holdout: float,
    ) -> None:
        super().__init__(
            tokenizer,
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            group_by_length=group_by_length,
            token_cache=token_cache,
            holdout=holdout,
            train_limit=train_limit,
            split_seed=split_seed,
            clients=clients,
            partition=partition,
            client_holdout=client_holdout,
        )
        if eval_limit is not None and eval_limit < 1:
            raise ConfigError(f"data.eval_limit is {eval_limit}; set it to at least 1, or to null")
        self.packing = packing
        self.eval_limit = eval_limit
        self._choices: list[Prompt] = []  # of the training data
        self._held_choices: tuple[Partition, NumberedRows] | None = None

    @abstractmethod
    def _read(self, split: str) -> list[Prompt]:
        """Return the examples of "train", "dev" or `predict_split`, never none at all.

        Either all have candidates or none has.
        """

    def _groups(self, rows: Any) -> list[str] | None:
        if rows[0].group is None:
            return None
        return [prompt.group for prompt in rows]

    def evaluation_examples(self) -> tuple[Any, LoaderOptions]:
        """Return clients' held-out examples, never packed, with their candidates if they have any.

        Candidates are tokenized at the first call; ConfigError if two of a prompt are the same.
        """
        options = replace(self.loader, collate_fn=self._collate(training=False))
        if self.held_out is None or not self._choices:
            return self.train_data, options
        if self._held_choices is None or self._held_choices[0] is not self.held_out:
            numbers = np.sort(np.concatenate(list(self.held_out))).tolist()
            rows = self._prompts().candidate_rows([self._choices[number] for number in numbers])
            self._held_choices = self.held_out, NumberedRows(rows, numbers)
        return self._held_choices[1], options

    def longest_prompt(self, stage: str) -> int:
        """Return the tokens of the longest prompt to go on from, 0 if `stage` goes on from none."""
        loaders = {"test": self.test_dataloader, "predict": self.predict_dataloader}
        loader = loaders.get(stage, self.val_dataloader)()
        return getattr(loader.dataset, "longest_prompt", 0)

    def _prompts(self) -> PromptEncoder:
        return PromptEncoder(self._encoder, self.max_length, self.token_cache, self.task)

    def _tokenize(self, rows: Any, training: bool) -> Any:
        encoder = self._prompts()
        if training:
            self._choices = rows if self.client_holdout and rows[0].candidates is not None else []
            return encoder.training_rows(rows)
        rows = self._limited(rows)
        if rows[0].candidates is not None:
            return encoder.candidate_rows(rows)
        return encoder.question_rows(rows)

    def _limited(self, rows: Any) -> Any:
        """Return at most `eval_limit` of the rows."""
        if self.eval_limit is None or self.eval_limit >= len(rows):
            return rows
        generator = generator_for(self.split_seed, *self._draw, "evaluation")
        return take(rows, draw_rows(len(rows), self.eval_limit, generator, self._groups(rows))[0])

    def _collate(self, training: bool) -> Callable[[list[Any]], Any]:
        pad = self._encoder.pad_token_id
        if not training:
            return PadForEvaluation(pad)
        return PackAnswers(pad) if self.packing else PadAnswers(pad)
