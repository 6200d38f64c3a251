"""The nine GLUE tasks, from the hub or from the official folders."""

from __future__ import annotations

from typing import Any

from fedtt_lightning.data.glue_files import TASKS, find_task_folder, read_split, task_name
from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.data.task_folder import load_from_hub
from fedtt_lightning.data.text_data import TextData
from fedtt_lightning.errors import ConfigError

HUB_NAME = "nyu-mll/glue"


class GlueData(TextData):
    """A GLUE task divided among clients; batches are those of `TextData`.

    The labels of GLUE's test sets are not public, so `test` runs on the dev set too, and `predict`
    on its texts. Tune on `holdout` rows, and report dev.

    Args:
        task: any of the nine, in any spelling ("sst2", "SST-2").
        tokenizer: name on the hub or folder, usually the model's backbone.
        data_dir: the official folder of the task or of all tasks; None loads from the hub.
        max_length: longest sequence in tokens; longer texts (or pairs) are cut.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation, test and predict.
        num_workers: processes that read batches; 0 reads in the main one.
        group_by_length: put texts of like length into the same training batches, see `TextData`.
        token_cache: keep tokens in the user's cache folder, see `TextData`.
        holdout: rows of the training set put aside and used for validation instead of dev.
        train_limit: use only so many of the other training rows, drawn at random.
        split_seed: seed of those two draws; not the experiment's, see `TextData`.
        mismatched: MNLI only: the dev set of other genres than the training set's.
        clients: number of clients, None where `partition` tells.
        partition: how examples go to clients; None is IID.
        client_holdout: share of each client's examples kept for evaluation by client.

    Raises ConfigError for an unknown task, a file that is missing or not as expected (file and
    line), a tokenizer that cannot be loaded, and a hub that cannot be reached.
    """

    def __init__(
        self,
        task: str,
        tokenizer: str,
        data_dir: str | None = None,
        max_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        num_workers: int = 0,
        group_by_length: bool = False,
        token_cache: bool = True,
        holdout: int = 0,
        train_limit: int | None = None,
        split_seed: int = 0,
        mismatched: bool = False,
        clients: int | None = 10,
        partition: Partitioner | None = None,
        client_holdout: float = 0.0,
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
        self.task = task_name(task)
        self.num_labels = TASKS[self.task].num_labels
        self.label_names = list(TASKS[self.task].labels) or None
        if mismatched and self.task != "mnli":
            raise ConfigError(f"data.mismatched is for task mnli only, not {self.task}")
        self.data_dir = data_dir
        self.mismatched = mismatched

    @property
    def _draw(self) -> tuple[str, ...]:
        return ("glue", self.task)

    def _read(self, split: str) -> Any:
        from datasets import Dataset

        if self.data_dir is None:
            name = {"dev": "validation"}.get(split, split)
            if self.task == "mnli" and split == "dev":
                name = "validation_mismatched" if self.mismatched else "validation_matched"
            files = f"{TASKS[self.task].folder}/train.tsv"
            return name_texts(load_from_hub(HUB_NAME, self.task, name, files))
        folder = find_task_folder(self.data_dir, self.task)
        rows = Dataset.from_dict(read_split(folder, self.task, split, self.mismatched))
        if len(rows) == 0:
            raise ConfigError(f"{folder}: the {split} file of {self.task} has no rows")
        return rows


def name_texts(rows: Any) -> Any:
    """Return a hub dataset with its one or two text columns called text and text_pair."""
    rows = rows.remove_columns("idx")
    texts = [column for column in rows.column_names if column != "label"]
    return rows.rename_columns(dict(zip(texts, ("text", "text_pair"), strict=False)))
