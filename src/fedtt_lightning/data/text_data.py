"""What the datamodules of texts share: held-out rows, tokenized splits, padded batches."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import DataLoader

from fedtt_lightning.data.client_data import ClientDataModule, LoaderOptions
from fedtt_lightning.data.collate import PadBatch
from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.data.row_draws import draw_rows, take
from fedtt_lightning.data.token_cache import cache_key, cached_tokens
from fedtt_lightning.data.token_rows import Lists, TokenRows, list_columns
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import generator_for


class TextData(ClientDataModule):
    """Labelled texts divided among clients; batches are padded to their own longest text.

    A subclass sets `task`, `num_labels` and `label_names`, and reads its rows in `_read`. Batches
    hold input_ids, attention_mask (and token_type_ids where the tokenizer makes them), int64
    [batch, length], and labels: int64 [batch] for classes, float32 [batch] for scores.

    Args:
        tokenizer: name on the hub or folder, usually the model's backbone.
        max_length: longest sequence in tokens; longer texts (or pairs) are cut.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation, test and predict.
        num_workers: processes that read batches; 0 reads in the main one.
        group_by_length: put texts of like length into the same training batches, which then are
            padded less but are no longer uniform draws; see `LoaderOptions`.
        token_cache: keep tokens, but no texts, in files in `fedtt-lightning/tokens` of the user's
            cache folder (XDG_CACHE_HOME or ~/.cache), for this user only, and read them by memory
            map from then on; False keeps them in memory alone. The files may be deleted any time.
        holdout: rows of the training set put aside and used for validation.
        train_limit: use only so many of the other training rows, drawn at random.
        split_seed: seed of those two draws. It is not the experiment's: methods and repetitions
            compared with each other then see the same rows.
        clients: number of clients, None where `partition` tells.
        partition: how examples go to clients; None is IID.
        client_holdout: share of each client's examples kept for evaluation by client.

    Raises ConfigError for options out of range, a tokenizer that cannot be loaded and rows that
    cannot be read.
    """

    task: str
    num_labels: int
    predict_split = "dev"

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
        holdout: int,
        train_limit: int | None,
        split_seed: int,
        clients: int | None,
        partition: Partitioner | None,
        client_holdout: float,
    ) -> None:
        super().__init__(clients, partition, client_holdout)
        if max_length < 2 or eval_batch_size < 1:
            raise ConfigError("data.max_length must be at least 2 and data.eval_batch_size 1")
        if holdout < 0 or (train_limit is not None and train_limit < 1):
            raise ConfigError("data.holdout must be at least 0, and data.train_limit 1 or null")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.group_by_length = group_by_length
        self.token_cache = token_cache
        self.holdout = holdout
        self.train_limit = train_limit
        self.split_seed = split_seed
        self._encoder: Any = None
        self._splits: dict[str, Any] = {}
        self._val_loader: DataLoader[Any] | None = None

    @abstractmethod
    def _read(self, split: str) -> Any:
        """Return the `datasets.Dataset` of "train", "dev" or `predict_split`, never empty.

        Its columns are text, text_pair where there are two, label, and any that partitions use.
        """

    @property
    def _draw(self) -> tuple[str, ...]:
        """The name of the draw that puts rows aside."""
        return (self.task,)

    def setup(self, stage: str) -> None:
        """Read, divide and tokenize what `stage` needs; each file is read once."""
        if self._encoder is None:
            self._encoder = load_tokenizer(self.tokenizer)
        if stage == "fit" or (stage == "validate" and self.holdout):
            self._setup_train()
        if stage != "fit" or not self.holdout:
            self._dataset(self.predict_split if stage == "predict" else "dev")
        self._val_loader = None
        if stage == "fit":
            self.train_data = self._splits["train"]
            self.loader = LoaderOptions(
                self.batch_size,
                self._collate(training=True),
                self.num_workers,
                group_by_length=self.group_by_length,
            )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the held-out rows if `holdout` is set, else the dev or test set."""
        if self._val_loader is None:
            self._val_loader = self._eval_loader("holdout" if self.holdout else "dev")
        return self._val_loader

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the dev or test set, in the file's order."""
        return self._eval_loader("dev")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the texts of the dev or test set, in the file's order."""
        return self._eval_loader(self.predict_split)

    def _setup_train(self) -> None:
        if "train" in self._splits:
            return
        rows = self._read("train")
        generator = generator_for(self.split_seed, *self._draw)
        held, rest = draw_rows(len(rows), self.holdout, generator, self._groups(rows))
        if not len(rest):
            raise ConfigError(
                f"data.holdout is {self.holdout}, but {self.task} has {len(rows)} training rows; "
                "leave some to train on"
            )
        if self.holdout:
            self._splits["holdout"] = self._tokenize(take(rows, held), training=False)
        self._splits["train"] = self._tokenize(take(rows, rest[: self.train_limit]), training=True)

    def _groups(self, rows: Any) -> list[str] | None:
        """Return what rows that stay together share, None where each stands for itself."""
        return None

    def _dataset(self, split: str) -> Any:
        if split not in self._splits:
            self._splits[split] = self._tokenize(self._read(split), training=False)
        return self._splits[split]

    def _tokenize(self, rows: Any, training: bool) -> Any:
        """Return the map-style dataset of rows, to train on or to evaluate on."""
        texts = [name for name in ("text", "text_pair") if name in rows.column_names]

        def encode(batch: Mapping[str, Any]) -> Any:
            return self._encoder(
                batch["text"],
                batch.get("text_pair"),
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=True,
            )

        def tokens() -> dict[str, Lists]:
            encoded = rows.select_columns(texts).map(
                encode,
                batched=True,
                remove_columns=texts,
                desc=f"Tokenizing {self.task}",
                # Not in its cache: the key would hash all that `encode` sees, which takes seconds.
                keep_in_memory=True,
                load_from_cache_file=False,
                new_fingerprint="tokenized",
            )
            return list_columns(encoded.with_format("arrow")[:])

        if self.token_cache:
            table = rows.select_columns(texts).with_format("arrow")[:]
            columns = {name: table[name].to_pylist() for name in texts}
            made = cached_tokens(cache_key(self._encoder, self.max_length, columns), tokens)
        else:
            made = tokens()
        return TokenRows(rows.remove_columns(texts), made)

    def _collate(self, training: bool) -> Callable[[list[Any]], Any]:
        """Return what makes batches of the examples of `_tokenize`."""
        padding = {"input_ids": self._encoder.pad_token_id, "attention_mask": 0}
        if "token_type_ids" in self._encoder.model_input_names:
            padding["token_type_ids"] = self._encoder.pad_token_type_id
        return PadBatch(padding, self._encoder.padding_side)

    def _eval_loader(self, split: str) -> DataLoader[Any]:
        return DataLoader(
            self._dataset(split),
            batch_size=self.eval_batch_size,
            collate_fn=self._collate(training=False),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a hub name or folder, one with a pad token, or raise ConfigError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(name))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"data.tokenizer {name!r} could not be loaded ({reason}); give a name on the hub or "
            "a local folder"
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        # transformers makes an empty one for a model folder without tokenizer files.
        raise ConfigError(
            f"data.tokenizer {name!r} has no vocabulary: the folder lacks its tokenizer files "
            "(tokenizer.json and tokenizer_config.json); save the tokenizer there, or name another"
        )
    if tokenizer.pad_token_id is None:
        # Decoders of the LLaMA and GPT-2 kind come without; the attention mask hides what fills.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
