"""Instructions with answers and chats, to fine-tune a decoder on: each client its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedtt_lightning.data.chat import Conversation, check_messages
from fedtt_lightning.data.chat_rows import ChatEncoder
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
from fedtt_lightning.data.prompt_data import PromptData
from fedtt_lightning.data.text_files import read_json_lines
from fedtt_lightning.errors import ConfigError

_ENDINGS = (".jsonl",)


class InstructionData(PromptData):
    """JSON lines of instructions or chats divided among clients; batches are those of `PromptData`.

    A row is `{"instruction", "input", "output"}`, whose input may be missing or empty, or a chat
    `{"messages": [{"role": "system", "user" or "assistant", "content"}, ...]}` that ends with the
    assistant. An instruction is a chat of one question (instruction, blank line, input) and one
    reply. All replies of a chat are learned, with the token that ends each.

    `write_conversation` tells how chats are written as text, and `shorten` what goes where they are
    longer than `max_length`: first the oldest exchanges, then the beginning of an input, never the
    last question or its reply. Validation and test take the loss of all replies; predict goes on
    from before the last one, which is the reference. LLaMA 3.1's chat template writes a date,
    always 26 Jul 2024 here, so that rows are those of any day; another one that asks for today's
    date gets it, and kept tokens keep theirs.

    Args:
        files: files, folders (of .jsonl files) or patterns, one or a list of them.
        tokenizer: name on the hub or folder, usually the model's backbone.
        test_files: the same for the test rows; without them, `holdout` rows are those, too.
        max_length: longest conversation in tokens.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation, test and predict.
        num_workers: processes that read batches; 0 reads in the main one.
        group_by_length: put rows of like length into the same training batches, see `TextData`.
        token_cache: keep tokens in the user's cache folder, see `TextData`.
        packing: lay the examples of a training batch out in fewer rows; loss and gradients stay.
        holdout: training rows put aside and used for validation.
        train_limit: use only so many of the other training rows, drawn at random.
        eval_limit: use at most so many rows in validation, test and predict, drawn at random.
        split_seed: seed of those three draws; not the experiment's, see `TextData`.
        clients: number of clients, None where files or `partition` tell.
        partition: how examples go to clients. Without it each of several files is a client's, as
            by `ByColumn("file")`, in their order; those of one file are divided by IID. Other
            columns are the rows' further fields, as far as they are texts or whole numbers.
        client_holdout: share of each client's examples kept for evaluation by client.

    Raises ConfigError, with file and line, for a file that is missing or empty, a row not of this
    form or too long, and for a client's file that has no row left.
    """

    task = "instructions"
    predict_split = "questions"

    def __init__(
        self,
        files: Names,
        tokenizer: str,
        test_files: Names | None = None,
        max_length: int = 512,
        batch_size: int = 8,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        group_by_length: bool = False,
        token_cache: bool = True,
        packing: bool = False,
        holdout: int = 0,
        train_limit: int | None = None,
        eval_limit: int | None = None,
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
            packing=packing,
            holdout=holdout,
            train_limit=train_limit,
            eval_limit=eval_limit,
            split_seed=split_seed,
            clients=clients,
            partition=own_files(partition, self.files),
            client_holdout=client_holdout,
        )

    def _read(self, split: str) -> Any:
        if split != "train" and not self.test_files:
            return held_out(self._read("train"), self.holdout, self.split_seed, self._draw)
        train = split == "train"
        rows: list[JsonRow] = []
        numbers: list[int] = []
        for number, path in enumerate(self.files if train else self.test_files):
            found = read_rows(path)
            rows += found
            numbers += [number] * len(found)
        names = column_names(rows, self.partition if train else None)
        used = {"instruction", "input", "output", "messages"}
        return [
            conversation(row, {FILE: number, **{n: row.fields[n] for n in names if n not in used}})
            for row, number in zip(rows, numbers, strict=True)
        ]

    def _groups(self, rows: Any) -> list[str] | None:
        return None

    def _setup_train(self) -> None:
        super()._setup_train()
        check_every_file(self._splits["train"][FILE], self.files, self.partition)

    def _dataset(self, split: str) -> Any:
        if split == self.predict_split and split not in self._splits:
            self._splits[split] = self._chats().question_rows(self._limited(self._read("dev")))
        return super()._dataset(split)

    def _tokenize(self, rows: Any, training: bool) -> Any:
        return self._chats().training_rows(rows if training else self._limited(rows))

    def _chats(self) -> ChatEncoder:
        return ChatEncoder(self._encoder, self.max_length, self.token_cache)


def read_rows(path: Path) -> list[JsonRow]:
    """Return the rows of a file, or raise ConfigError if it has none."""
    rows = [JsonRow(where, row) for where, row in read_json_lines(path)]
    if not rows:
        raise ConfigError(f"{path}: the file has no rows; leave it out of data.files")
    return rows


def conversation(row: JsonRow, columns: dict[str, str | int]) -> Conversation:
    """Return what a row holds, or raise ConfigError with file and line."""
    if "messages" in row.fields:
        messages = check_messages(row.fields["messages"], row.where)
        return Conversation(messages, where=row.where, columns=columns)
    if "instruction" not in row.fields:
        raise ConfigError(
            f"{row.where}: a row needs 'instruction' and 'output', or 'messages', but has "
            f"{', '.join(map(repr, row.fields)) or 'nothing'}"
        )
    question = required_text(row, "instruction").strip()
    given = row.text("input").strip() if row.fields.get("input") is not None else ""
    asked = f"{question}\n\n{given}" if given else question
    reply = {"role": "assistant", "content": required_text(row, "output")}
    return Conversation(({"role": "user", "content": asked}, reply), given, row.where, columns)
