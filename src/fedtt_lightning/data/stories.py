"""Language modelling on stories made on the spot: offline, nothing to download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedtt_lightning.data.by_column import ByColumn
from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.data.story_text import generate_stories
from fedtt_lightning.data.text_data import TextData
from fedtt_lightning.data.token_blocks import BlockBatch, block_rows
from fedtt_lightning.data.token_rows import TokenRows
from fedtt_lightning.errors import ConfigError


class StoryData(TextData):
    """The small stories of `story_text` to predict; batches are those of `BlockBatch`.

    Validation and test run on stories of all worlds that nobody trains on.

    Args:
        tokenizer: name on the hub or folder, usually the model's backbone.
        train_size: number of stories to train on, of all clients together.
        test_size: number of stories for validation and test.
        text_seed: seed of the stories, which is not the experiment's: all experiments compared with
            each other see the same data.
        max_length: longest example in tokens; longer stories make several, see `cut_blocks`.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation and test.
        token_cache: keep tokens in the user's cache folder, see `TextData`.
        holdout: training stories put aside and used for validation instead of the test stories.
        clients: number of clients, None for one a world.
        partition: how examples go to clients; None is `ByColumn("world")`: clients write about
            children, places and things of their own.
        client_holdout: share of each client's examples kept for evaluation by client.
    """

    task = "text"
    num_labels = 1

    def __init__(
        self,
        tokenizer: str,
        train_size: int = 2400,
        test_size: int = 480,
        text_seed: int = 0,
        max_length: int = 256,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        token_cache: bool = True,
        holdout: int = 0,
        clients: int | None = 10,
        partition: Partitioner | None = None,
        client_holdout: float = 0.0,
    ) -> None:
        super().__init__(
            tokenizer,
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=0,
            group_by_length=False,
            token_cache=token_cache,
            holdout=holdout,
            train_limit=None,
            split_seed=text_seed,
            clients=clients,
            partition=ByColumn("world") if partition is None else partition,
            client_holdout=client_holdout,
        )
        self.sizes = {"train": train_size, "dev": test_size}
        if min(self.sizes.values()) < 1:
            raise ConfigError("data.train_size and data.test_size must be at least 1")
        self.text_seed = text_seed

    def _read(self, split: str) -> Any:
        from datasets import Dataset

        return Dataset.from_dict(generate_stories(self.sizes[split], self.text_seed, split))

    def _tokenize(self, rows: Any, training: bool) -> TokenRows:
        return block_rows(self._encoder, rows, self.max_length, self.token_cache)

    def _collate(self, training: bool) -> Callable[[list[Any]], Any]:
        return BlockBatch(self._encoder.pad_token_id)
