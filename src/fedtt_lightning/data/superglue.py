"""SuperGLUE, SST-2, SQuAD and DROP: as prompts for decoders, SuperGLUE for encoders too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedtt_lightning.data import glue_files
from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.data.prompt_data import PromptData
from fedtt_lightning.data.prompt_templates import TEMPLATES, question_of
from fedtt_lightning.data.question_files import DROP_FILES, SQUAD_FILES, read_drop, read_squad
from fedtt_lightning.data.superglue_files import TASKS, read_superglue
from fedtt_lightning.data.superglue_pairs import PAIRS, PadGroups
from fedtt_lightning.data.task_folder import find_folder, load_from_hub
from fedtt_lightning.data.text_data import TextData
from fedtt_lightning.errors import ConfigError

LABEL_NAMES = {
    "boolq": ["no", "yes"],
    "cb": ["entailment", "contradiction", "neutral"],
    "copa": ["choice1", "choice2"],
    "multirc": ["no", "yes"],
    "rte": ["entailment", "not_entailment"],
    "wic": ["no", "yes"],
    "wsc": ["no", "yes"],
    "sst2": ["negative", "positive"],
}
HUB = {
    "sst2": ("nyu-mll/glue", "sst2"),
    "squad": ("rajpurkar/squad", "plain_text"),
    "wsc": ("aps/super_glue", "wsc.fixed"),  # the same texts, with the places of words mended
}


class SuperGlueData(PromptData):
    """A task asked of a language model in words, divided among clients; batches of `PromptData`.

    `as_prompts: false` gives the batches of `TextData` for encoders with a classification head:
    pairs of texts and classes, see `superglue_pairs`; batches that evaluate MultiRC also hold
    `group`, a list of the question of each answer. The templates are in `prompt_templates`.
    Columns that `ByColumn` can divide by: MultiRC `paragraph`, ReCoRD `passage`, SQuAD `title`,
    DROP `passage_id`.

    The labels of the test sets are not public, so `test` runs on the validation set too; `predict`
    runs on SuperGLUE's test set, or on the validation set where the folder has no test.jsonl.

    Args:
        task: boolq, cb, copa, multirc, record, rte, wic, wsc, sst2, squad or drop, in any spelling.
        tokenizer: name on the hub or folder, usually the model's backbone.
        data_dir: the official folder of the task or of all tasks; None loads from the hub.
        as_prompts: False: SuperGLUE as classification (but ReCoRD, which has no classes).
        max_length: longest sequence in tokens; of a prompt, only the context is cut.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation, test and predict, each with all its
            candidates.
        num_workers: processes that read batches; 0 reads in the main one.
        group_by_length: put texts of like length into the same training batches, see `TextData`.
        token_cache: keep tokens in the user's cache folder, see `TextData`.
        packing: lay the prompts of a training batch out in fewer rows; loss and gradients stay.
        holdout: rows of the training set put aside and used for validation; of MultiRC whole
            questions.
        train_limit: use only so many of the other training rows, drawn at random.
        eval_limit: use at most so many rows in validation, test and predict, drawn at random; of
            MultiRC whole questions.
        split_seed: seed of those three draws; not the experiment's, see `TextData`.
        clients: number of clients, None where `partition` tells.
        partition: how examples go to clients; None is IID.
        client_holdout: share of each client's examples kept for evaluation by client.

    Raises ConfigError for an unknown task, a file that is missing or not as expected (file and
    line), a prompt that does not fit, a tokenizer that cannot be loaded, and a hub that cannot be
    reached.
    """

    def __init__(
        self,
        task: str,
        tokenizer: str,
        data_dir: str | None = None,
        as_prompts: bool = True,
        max_length: int = 256,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        group_by_length: bool = False,
        token_cache: bool = True,
        packing: bool = False,
        holdout: int = 0,
        train_limit: int | None = None,
        eval_limit: int | None = None,
        split_seed: int = 0,
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
            packing=packing,
            holdout=holdout,
            train_limit=train_limit,
            eval_limit=eval_limit,
            split_seed=split_seed,
            clients=clients,
            partition=partition,
            client_holdout=client_holdout,
        )
        self.task = task_name(task)
        if not as_prompts and self.task not in PAIRS:
            raise ConfigError(
                f"data.as_prompts is false, but {self.task} is no classification here: set it to "
                f"true, or data.task to one of {', '.join(PAIRS)}"
            )
        if not as_prompts and packing:
            raise ConfigError("data.packing is for prompts: set data.as_prompts to true")
        self.data_dir = data_dir
        self.as_prompts = as_prompts
        self.label_names = LABEL_NAMES.get(self.task)
        self.num_labels = len(self.label_names) if self.label_names else 1
        self.predict_split = "test" if self.task in TASKS else "dev"

    @property
    def _draw(self) -> tuple[str, ...]:
        return ("superglue", self.task)

    def _read(self, split: str) -> Any:
        rows = self._from_hub(split) if self.data_dir is None else self._from_files(split)
        if not rows:
            raise ConfigError(f"{self.data_dir}: the {split} file of {self.task} has no rows")
        if self.as_prompts:
            template = TEMPLATES[self.task]
            return [replace(template(row), where=where) for where, row in rows]
        from datasets import Dataset

        pairs = [PAIRS[self.task](row) for _, row in rows]
        columns = {
            "text": [first for first, _ in pairs],
            "text_pair": [second for _, second in pairs],
            "label": [int(row["label"]) for _, row in rows],
        }
        if self.task == "multirc":
            columns["group"] = [question_of(row) for _, row in rows]
        return Dataset.from_dict(columns)

    def _tokenize(self, rows: Any, training: bool) -> Any:
        if self.as_prompts:
            return super()._tokenize(rows, training)
        return TextData._tokenize(self, rows if training else self._limited(rows), training)

    def _collate(self, training: bool) -> Callable[[list[Any]], Any]:
        if self.as_prompts:
            return super()._collate(training)
        pad = TextData._collate(self, training)
        return pad if training or self.task != "multirc" else PadGroups(pad)

    def _groups(self, rows: Any) -> list[str] | None:
        if self.as_prompts:
            return super()._groups(rows)
        return list(rows["group"]) if self.task == "multirc" else None

    def _from_files(self, split: str) -> list[tuple[str, Any]]:
        assert self.data_dir is not None
        name = {"dev": "val"}.get(split, split)
        if self.task == "sst2":
            return read_sst2(self.data_dir, split)
        if self.task == "squad":
            files = tuple(SQUAD_FILES.values())
            return read_squad(find_folder(self.data_dir, "squad", "SQuAD", files), name)
        if self.task == "drop":
            files = tuple(DROP_FILES.values())
            return read_drop(find_folder(self.data_dir, "drop", "DROP", files), name)
        files = ("train.jsonl", "val.jsonl")
        folder = find_folder(self.data_dir, self.task, TASKS[self.task].folder, files)
        if name == "test" and not (folder / "test.jsonl").is_file():
            name = "val"
        return read_superglue(folder, self.task, name)

    def _from_hub(self, split: str) -> list[tuple[str, Any]]:
        if self.task == "drop":
            raise ConfigError(
                "data.task=drop is read from its official files only, which alone say what belongs "
                "to one answer: point data.data_dir at a folder with "
                + ", ".join(DROP_FILES.values())
            )
        name, config = HUB.get(self.task, ("aps/super_glue", self.task))
        files = {"sst2": "SST-2/train.tsv", "squad": ", ".join(SQUAD_FILES.values())}
        official = files.get(self.task) or f"{TASKS[self.task].folder}/train.jsonl"
        rows = load_from_hub(name, config, {"dev": "validation"}.get(split, split), official)
        return [(f"{name} ({config}) {split} row {i}", row) for i, row in enumerate(rows)]


def task_name(name: str) -> str:
    """Return the short name of a task in any spelling ("BoolQ", "SST-2"), or raise ConfigError."""
    short = name.lower().replace("-", "").replace("_", "")
    if short not in TEMPLATES:
        raise ConfigError(f"data.task is {name!r}; choose one of {', '.join(TEMPLATES)}")
    return short


def read_sst2(data_dir: str, split: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the rows of SST-2's official GLUE files, as the hub's, each with file and line."""
    folder = glue_files.find_task_folder(data_dir, "sst2")
    columns = glue_files.read_split(folder, "sst2", split)
    rows = zip(columns["text"], columns["label"], strict=True)
    return [
        (f"{folder / split}.tsv:{line}", {"sentence": text, "label": label})
        for line, (text, label) in enumerate(rows, 2)
    ]
