"""Reading the official SuperGLUE folders: JSON lines, made into the flat rows of the hub's copy.

The formats are those of the archives at super.gluebenchmark.com (Wang et al., arXiv 1905.00537).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtt_lightning.data.json_rows import JsonRow, read_jsonl
from fedtt_lightning.errors import ConfigError

Row = dict[str, Any]

UNKNOWN = -1


@dataclass(frozen=True)
class SuperGlueTask:
    """A task's folder, its texts in a file that is flat, and how class i is written.

    The class ids are those of the hub's `aps/super_glue`.
    """

    folder: str
    texts: tuple[str, ...] = ()
    labels: tuple[str | int | bool, ...] = (False, True)


TASKS = {
    "boolq": SuperGlueTask("BoolQ", ("question", "passage")),
    "cb": SuperGlueTask(
        "CB", ("premise", "hypothesis"), ("entailment", "contradiction", "neutral")
    ),
    "copa": SuperGlueTask("COPA", ("premise", "choice1", "choice2", "question"), (0, 1)),
    "multirc": SuperGlueTask("MultiRC"),
    "record": SuperGlueTask("ReCoRD", (), ()),
    "rte": SuperGlueTask("RTE", ("premise", "hypothesis"), ("entailment", "not_entailment")),
    "wic": SuperGlueTask("WiC", ("word", "sentence1", "sentence2")),
    "wsc": SuperGlueTask("WSC", ("text",)),
}


def read_superglue(folder: Path, task: str, split: str) -> list[tuple[str, Row]]:
    """Return the rows of "train", "val" or "test", each with its file and line.

    Every row has `label`, a class id, -1 where a test set has none (ReCoRD has `answers` in its
    place). MultiRC gives a row an answer, ReCoRD a row a query. Raises ConfigError with file and
    line for a missing file or field, broken JSON, or a label outside the task's set.
    """
    path = folder / f"{split}.jsonl"
    lines = read_jsonl(path, f"{TASKS[task].folder}/train.jsonl, val.jsonl")
    flatten = {"multirc": _multirc, "record": _record, "wic": _wic, "wsc": _wsc}.get(task, _flat)
    labelled = split != "test"
    return [(line.where, row) for line in lines for row in flatten(line, task, labelled)]


def _flat(line: JsonRow, task: str, labelled: bool) -> Iterator[Row]:
    texts = {name: line.text(name) for name in TASKS[task].texts}
    if task == "copa" and texts["question"] not in ("cause", "effect"):
        raise ConfigError(
            f"{line.where}: field 'question' is {texts['question']!r}, not cause or effect"
        )
    yield {**texts, "label": _class_of(line, task, labelled)}


def _wic(line: JsonRow, task: str, labelled: bool) -> Iterator[Row]:
    places = {name: line.number(name) for name in ("start1", "end1", "start2", "end2")}
    for row in _flat(line, task, labelled):
        yield {**row, **places}


def _wsc(line: JsonRow, task: str, labelled: bool) -> Iterator[Row]:
    target = line.inner("target")
    spans = {
        "span1_text": target.text("span1_text"),
        "span2_text": target.text("span2_text"),
        "span2_index": target.number("span2_index"),
    }
    for row in _flat(line, task, labelled):
        yield {**row, **spans}


def _multirc(line: JsonRow, task: str, labelled: bool) -> Iterator[Row]:
    passage, paragraph = line.inner("passage"), line.number("idx")
    for question in passage.rows("questions"):
        for answer in question.rows("answers"):
            yield {
                "paragraph": passage.text("text"),
                "question": question.text("question"),
                "answer": answer.text("text"),
                "idx": {"paragraph": paragraph, "question": question.number("idx")},
                "label": _class_of(answer, task, labelled),
            }


def _record(line: JsonRow, task: str, labelled: bool) -> Iterator[Row]:
    passage = line.inner("passage")
    text = passage.text("text")
    # In the order of the text, each once; a span's end is its last character.
    spans = sorted((e.number("start"), e.number("end")) for e in passage.rows("entities"))
    entities = list(dict.fromkeys(text[start : end + 1] for start, end in spans))
    for query in line.rows("qas"):
        answers = [answer.text("text") for answer in query.rows("answers")] if labelled else []
        if labelled and not answers:
            raise ConfigError(f"{line.where}: a query has no answers")
        yield {
            "passage": text,
            "query": query.text("query"),
            "entities": entities,
            "answers": list(dict.fromkeys(answers)),
            "idx": {"passage": line.number("idx")},
        }


def _class_of(line: JsonRow, task: str, labelled: bool) -> int:
    labels = TASKS[task].labels
    if "label" not in line.fields and not labelled:
        return UNKNOWN
    if "label" not in line.fields:
        raise ConfigError(f"{line.where}: there is no field 'label'; mend the file")
    label = line.fields["label"]
    if label not in labels:
        written = ", ".join(str(name).lower() for name in labels)
        raise ConfigError(
            f"{line.where}: label {label!r} is not one of {TASKS[task].folder}'s: {written}"
        )
    return labels.index(label)
