"""The built-in text task as a federated datamodule: offline, nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from fedtt_lightning.data.builtin_text import (
    LABEL_NAMES,
    SPECIAL_TOKENS,
    generate_reviews,
    vocabulary,
)
from fedtt_lightning.data.client_data import ClientDataModule, LoaderOptions
from fedtt_lightning.data.collate import PadBatch
from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.errors import ConfigError


class BuiltinText(ClientDataModule):
    """Generated reviews of six topics, to be called positive or negative by the order of words.

    Made for `backbone="builtin"`, whose vocabulary it shares; see `builtin_text`. An example has a
    column `topic`, so `ByColumn("topic")` gives clients that differ as sites do in practice.
    Batches hold input_ids and attention_mask, int64 [batch, length], and labels, int64 [batch].

    Args:
        train_size: number of texts to train on, of all clients together.
        validation_size: number of texts for validation.
        test_size: number of texts for test and predict.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation, test and predict.
        text_seed: seed of the texts, which is not the experiment's: all experiments compared with
            each other see the same data.
        tokenizer: the model's backbone: `builtin`, or a folder that `ensure_backbone` made.
        clients: number of clients, None where `partition` tells.
        partition: how examples go to clients; None is IID.
        client_holdout: share of each client's examples kept for evaluation by client.
    """

    task = "builtin"
    num_labels = len(LABEL_NAMES)
    label_names = LABEL_NAMES

    def __init__(
        self,
        train_size: int = 4000,
        validation_size: int = 1000,
        test_size: int = 1000,
        batch_size: int = 32,
        eval_batch_size: int = 250,
        text_seed: int = 0,
        tokenizer: str = "builtin",
        clients: int | None = 10,
        partition: Partitioner | None = None,
        client_holdout: float = 0.0,
    ) -> None:
        super().__init__(clients, partition, client_holdout)
        if not Path(tokenizer).name.startswith("builtin"):
            raise ConfigError(
                f"data.BuiltinText goes with model.backbone=builtin, whose words it has, not with "
                f"{tokenizer}: use data.GlueData or data of your own"
            )
        self.sizes = {"train": train_size, "validation": validation_size, "test": test_size}
        for split, size in self.sizes.items():
            if size < 1:
                raise ConfigError(f"data.{split}_size is {size}; set it to at least 1")
        if eval_batch_size < 1:
            raise ConfigError(f"data.eval_batch_size is {eval_batch_size}; set it to at least 1")
        self.loader = LoaderOptions(
            batch_size, PadBatch({"input_ids": SPECIAL_TOKENS.index("[PAD]"), "attention_mask": 0})
        )
        self.eval_batch_size = eval_batch_size
        self.text_seed = text_seed
        self.vocab_size = len(vocabulary())
        self._splits: dict[str, list[dict[str, Any]]] = {}

    def setup(self, stage: str) -> None:
        """Generate the texts, which takes less than a second."""
        if stage == "fit":
            self.train_data = self._split("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation texts in order."""
        return self._eval_loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test texts in order."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the test texts in order."""
        return self._eval_loader("test")

    def _split(self, split: str) -> list[dict[str, Any]]:
        if split not in self._splits:
            columns = generate_reviews(self.sizes[split], self.text_seed, split)
            self._splits[split] = [
                {**encode(text), "label": label, "topic": topic, "text": text}
                for text, label, topic in zip(*columns.values(), strict=True)
            ]
        return self._splits[split]

    def _eval_loader(self, split: str) -> DataLoader[Any]:
        return DataLoader(
            self._split(split),  # type: ignore[arg-type]  # a list is a map-style dataset
            batch_size=self.eval_batch_size,
            collate_fn=self.loader.collate_fn,
        )


_IDS = {word: index for index, word in enumerate(vocabulary())}


def encode(text: str) -> dict[str, list[int]]:
    """Return input_ids and attention_mask of a text, as the built-in tokenizer gives them."""
    unknown = _IDS["[UNK]"]
    ids = [_IDS["[CLS]"], *(_IDS.get(word, unknown) for word in text.split()), _IDS["[SEP]"]]
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}
