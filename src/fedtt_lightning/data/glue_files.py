"""Reading the official GLUE folders: tab-separated files without quoting, and what can be wrong.

The formats are those of the archives at gluebenchmark.com (Wang et al., arXiv 1804.07461).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedtt_lightning.data.task_folder import find_folder
from fedtt_lightning.errors import ConfigError

Columns = dict[str, list[str] | list[int] | list[float]]

ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """Where a task's texts and label stand in its files.

    `labels[i]` is how class i is written (the ids are those of the hub's `nyu-mll/glue`); none for
    a score from 0 to 5. `texts` and `label` are columns of the header line, or positions in a file
    that has none. `skips` is how many rows with missing columns its official file is known to
    have, which others skip in silence; here they are counted in a warning.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    header: bool = True
    skips: int = 0

    @property
    def num_labels(self) -> int:
        """Width of the model's output: the number of classes, 1 for a score."""
        return len(self.labels) or 1


TASKS = {
    "cola": GlueTask("CoLA", ("3",), "1", ("0", "1"), header=False),
    "sst2": GlueTask("SST-2", ("sentence",), "label", ("0", "1")),
    "mrpc": GlueTask("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1")),
    "qqp": GlueTask("QQP", ("question1", "question2"), "is_duplicate", ("0", "1"), skips=50),
    "stsb": GlueTask("STS-B", ("sentence1", "sentence2"), "score", ()),
    "mnli": GlueTask(
        "MNLI",
        ("sentence1", "sentence2"),
        "gold_label",
        ("entailment", "neutral", "contradiction"),
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", ENTAILMENT),
    "rte": GlueTask("RTE", ("sentence1", "sentence2"), "label", ENTAILMENT),
    "wnli": GlueTask("WNLI", ("sentence1", "sentence2"), "label", ("0", "1")),
}


def task_name(name: str) -> str:
    """Return the short name of a task in any spelling ("SST-2", "sst2"), or raise ConfigError."""
    short = name.lower().replace("-", "").replace("_", "")
    if short not in TASKS:
        raise ConfigError(f"data.task is {name!r}; choose one of {', '.join(TASKS)}")
    return short


def find_task_folder(data_dir: str | Path, task: str) -> Path:
    """Return the folder of a task: `data_dir` itself, or its subfolder in any spelling."""
    return find_folder(data_dir, task, TASKS[task].folder, ("train.tsv", "dev*.tsv"))


def read_split(folder: Path, task: str, split: str, mismatched: bool = False) -> Columns:
    """Return the rows of "train" or "dev": columns text, text_pair (two-text tasks) and label.

    MNLI's `genre` is kept for natural partitions. Raises ConfigError with file and line for a
    missing file, a row with missing columns or a label outside the task's set.
    """
    spec = TASKS[task]
    if task == "mrpc" and not (folder / f"{split}.tsv").is_file():
        return _read_mrpc_originals(folder, split)
    if task == "mnli" and split == "dev":
        split = "dev_mismatched" if mismatched else "dev_matched"
    return _to_columns(spec, list(_read_rows(folder / f"{split}.tsv", spec)))


@dataclass(frozen=True)
class _Row:
    where: str
    cells: dict[str, str]


def _read_rows(path: Path, spec: GlueTask) -> Iterator[_Row]:
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing; data.data_dir must hold the official GLUE files of {spec.folder}"
        )
    skipped = 0
    # Lines end at "\n" alone: texts contain other characters that Python takes for line ends.
    with path.open(encoding="utf-8-sig", errors="strict", newline="\n") as file:
        try:
            names = file.readline().rstrip("\r\n").split("\t") if spec.header else list("0123")
            missing = [name for name in (*spec.texts, spec.label) if name not in names]
            if missing:
                raise ConfigError(
                    f"{path}:1: the header has no column {missing[0]!r} (it has "
                    f"{', '.join(names[:12]) or 'none'}); is this the official {spec.folder} file?"
                )
            for number, line in enumerate(file, start=2 if spec.header else 1):
                cells = line.rstrip("\r\n").split("\t")
                if len(cells) >= len(names):
                    yield _Row(f"{path}:{number}", dict(zip(names, cells, strict=False)))
                elif skipped < spec.skips:
                    skipped += 1
                else:
                    raise ConfigError(
                        f"{path}:{number}: the row has {len(cells)} of {len(names)} columns; "
                        "the file is cut short or not the official one"
                    )
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text ({error.reason})") from error
    if skipped:
        warnings.warn(f"{path}: {skipped} rows with missing columns were skipped", stacklevel=2)


def _to_columns(spec: GlueTask, rows: list[_Row]) -> Columns:
    columns: Columns = {"text": [row.cells[spec.texts[0]] for row in rows]}
    if len(spec.texts) == 2:
        columns["text_pair"] = [row.cells[spec.texts[1]] for row in rows]
    if spec is TASKS["mnli"]:
        columns["genre"] = [row.cells.get("genre", "") for row in rows]
    label = _score if not spec.labels else _class_of
    columns["label"] = [label(spec, row) for row in rows]
    return columns


def _class_of(spec: GlueTask, row: _Row) -> int:
    text = row.cells[spec.label].strip()
    if text not in spec.labels:
        raise ConfigError(
            f"{row.where}: label {text!r} is not one of {spec.folder}'s: {', '.join(spec.labels)}"
        )
    return spec.labels.index(text)


def _score(spec: GlueTask, row: _Row) -> float:
    text = row.cells[spec.label].strip()
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 5:
        raise ConfigError(f"{row.where}: score {text!r} is not a number from 0 to 5")
    return score


def _read_mrpc_originals(folder: Path, split: str) -> Columns:
    """Read MRPC from Microsoft's own files, as GLUE makes its split from them.

    GLUE's dev rows are the pairs named in `dev_ids.tsv` (or `mrpc_dev_ids.tsv`), out of the
    training file. Without that list, dev is Microsoft's test file, and train its whole training
    file.
    """
    spec = TASKS["mrpc"]
    lists = [folder / name for name in ("dev_ids.tsv", "mrpc_dev_ids.tsv")]
    listed = next((path for path in lists if path.is_file()), None)
    name = "train" if split == "train" or listed else "test"
    path = folder / f"msr_paraphrase_{name}.txt"
    if not path.is_file():
        raise ConfigError(
            f"{folder / f'{split}.tsv'} is missing, and {path.name} too; data.data_dir must hold "
            "either form of MRPC"
        )
    rows = list(_read_rows(path, spec))
    if listed is not None:
        lines = listed.read_text(encoding="utf-8-sig").split("\n")
        dev = {tuple(line.rstrip("\r").split("\t")[:2]) for line in lines}
        rows = [
            row
            for row in rows
            if ((row.cells["#1 ID"], row.cells["#2 ID"]) in dev) == (split == "dev")
        ]
    return _to_columns(spec, rows)
