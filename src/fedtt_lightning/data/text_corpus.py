"""Language modelling on plain texts: each client its own file, or a column of JSON lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from fedtt_lightning.data.client_files import (
    FILE,
    Names,
    check_evaluation,
    check_every_file,
    column_names,
    find_files,
    held_out,
    own_files,
    required_text,
)
from fedtt_lightning.data.json_rows import JsonRow
from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.data.text_data import TextData
from fedtt_lightning.data.text_files import read_json_lines, read_text
from fedtt_lightning.data.token_blocks import BlockBatch, block_rows
from fedtt_lightning.data.token_rows import TokenRows
from fedtt_lightning.errors import ConfigError

_ENDINGS = (".txt", ".jsonl")


class TextCorpus(TextData):
    """Texts to predict token by token, divided among clients; batches are those of `BlockBatch`.

    A file that ends in .jsonl holds an object a line, with the text in `text_column`; any other is
    plain text, whose documents are paragraphs (blank lines between them) or lines. A document is
    encoded as the tokenizer does by itself (most put a begin token first and no end token last),
    and one longer than `max_length` makes several examples, see `cut_blocks`.

    Args:
        files: files, folders (of .txt and .jsonl files) or patterns, one or a list of them.
        tokenizer: name on the hub or folder, usually the model's backbone.
        test_files: the same for the test documents; without them, `holdout` documents are those.
        text_column: field of JSON lines that holds the text; others are columns for ByColumn.
        documents: what of a plain file is one document.
        max_length: longest example in tokens.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation and test.
        num_workers: processes that read batches; 0 reads in the main one.
        group_by_length: put examples of like length into the same training batches, see `TextData`.
        token_cache: keep tokens in the user's cache folder, see `TextData`.
        holdout: training documents put aside and used for validation.
        train_limit: use only so many of the other training documents, drawn at random.
        split_seed: seed of those two draws; not the experiment's, see `TextData`.
        clients: number of clients, None where files or `partition` tell.
        partition: how examples go to clients. Without it each of several files is a client's, as
            by `ByColumn("file")`, in their order; those of one file are divided by IID.
        client_holdout: share of each client's examples kept for evaluation by client.

    Raises ConfigError, with file and line, for a file that is missing, empty, not UTF-8 or not of
    this form, and for a client's file that has no document left.
    """

    task = "text"
    num_labels = 1

    def __init__(
        self,
        files: Names,
        tokenizer: str,
        test_files: Names | None = None,
        text_column: str = "text",
        documents: Literal["paragraphs", "lines"] = "paragraphs",
        max_length: int = 256,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        group_by_length: bool = False,
        token_cache: bool = True,
        holdout: int = 0,
        train_limit: int | None = None,
        split_seed: int = 0,
        clients: int | None = None,
        partition: Partitioner | None = None,
        client_holdout: float = 0.0,
    ) -> None:
        check_evaluation(test_files, holdout)
        self.files = find_files(files, _ENDINGS, "files")
        self.test_files = (
            [] if test_files is None else find_files(test_files, _ENDINGS, "test_files")
        )
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
            partition=own_files(partition, self.files),
            client_holdout=client_holdout,
        )
        self.text_column = text_column
        self.documents = documents

    def _read(self, split: str) -> Any:
        if split != "train" and not self.test_files:
            return held_out(self._read("train"), self.holdout, self.split_seed, self._draw)
        from datasets import Dataset

        train = split == "train"
        rows: list[JsonRow] = []
        numbers: list[int] = []
        for number, path in enumerate(self.files if train else self.test_files):
            found = read_documents(path, self.documents, self.text_column)
            rows += found
            numbers += [number] * len(found)
        names = column_names(rows, self.partition if train else None)
        columns = {n: [row.fields[n] for row in rows] for n in names if n != self.text_column}
        columns["text"] = [required_text(row, self.text_column) for row in rows]
        return Dataset.from_dict({**columns, FILE: numbers})

    def _setup_train(self) -> None:
        super()._setup_train()
        check_every_file(self._splits["train"][FILE], self.files, self.partition)

    def _tokenize(self, rows: Any, training: bool) -> TokenRows:
        return block_rows(self._encoder, rows, self.max_length, self.token_cache)

    def _collate(self, training: bool) -> Callable[[list[Any]], Any]:
        return BlockBatch(self._encoder.pad_token_id)


def read_documents(path: Path, documents: str, column: str) -> Sequence[JsonRow]:
    """Return the documents of a file as rows with the text in `column`, or raise ConfigError."""
    if path.suffix == ".jsonl":
        rows = [JsonRow(where, row) for where, row in read_json_lines(path)]
    else:
        text = read_text(path)
        parts = re.split(r"\n[ \t\r]*\n", text) if documents == "paragraphs" else text.split("\n")
        rows = [JsonRow(str(path), {column: part.strip()}) for part in parts if part.strip()]
    if not rows:
        raise ConfigError(f"{path}: the file holds no text; leave it out of data.files")
    return rows
