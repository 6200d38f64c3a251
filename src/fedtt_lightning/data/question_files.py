"""Reading the official files of SQuAD 1.1 and DROP, one JSON object each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedtt_lightning.data.json_rows import JsonRow, read_json
from fedtt_lightning.errors import ConfigError

Row = dict[str, Any]

SPAN = "; "  # between the spans of one answer of DROP
SQUAD_FILES = {"train": "train-v1.1.json", "val": "dev-v1.1.json"}
DROP_FILES = {"train": "drop_dataset_train.json", "val": "drop_dataset_dev.json"}


def read_squad(folder: Path, split: str) -> list[tuple[str, Row]]:
    """Return the questions of "train" or "val" as rows of the hub's `rajpurkar/squad`.

    A row has `title`, `context`, `question` and `answers`, {"text": [...]}. ConfigError, with file
    and question, for what is missing; SQuAD 2.0, which has questions without answers, is not read.
    """
    path = folder / SQUAD_FILES[split]
    return list(_squad_rows(read_json(path, ", ".join(SQUAD_FILES.values())), path))


def read_drop(folder: Path, split: str) -> list[tuple[str, Row]]:
    """Return the questions of "train" or "val": passage_id, passage, question, answers.

    `answers` are the one given first and then those of further annotators, each as the official
    script reads it: the number, else the spans, with "; " between them, else day, month and year.
    ConfigError, with file and question, for what is missing.
    """
    path = folder / DROP_FILES[split]
    return list(_drop_rows(read_json(path, ", ".join(DROP_FILES.values())), path))


def _squad_rows(content: JsonRow, path: Path) -> Iterator[tuple[str, Row]]:
    for article in content.rows("data"):
        title = article.text("title")
        for paragraph in article.rows("paragraphs"):
            context = paragraph.text("context")
            for number, question in enumerate(paragraph.rows("qas")):
                named = question.fields.get("id", f"{number} of a paragraph of {title!r}")
                question = JsonRow(f"{path}: question {named}", question.fields)
                answers = [answer.text("text") for answer in question.rows("answers")]
                if not answers:
                    raise ConfigError(
                        f"{question.where} has no answer; data.task=squad reads SQuAD 1.1, not 2.0"
                    )
                yield (
                    question.where,
                    {
                        "title": title,
                        "context": context,
                        "question": question.text("question"),
                        "answers": {"text": list(dict.fromkeys(answers))},
                    },
                )


def _drop_rows(content: JsonRow, path: Path) -> Iterator[tuple[str, Row]]:
    for passage_id in content.fields:
        passage = content.inner(passage_id)
        for number, pair in enumerate(passage.rows("qa_pairs")):
            where = f"{path}: question {pair.fields.get('query_id', f'{number} of {passage_id}')}"
            pair = JsonRow(where, pair.fields)
            given = [pair.inner("answer")]
            if "validated_answers" in pair.fields:
                given += pair.rows("validated_answers")
            answers = [text for answer in given if (text := _drop_answer(answer))]
            if not answers:
                raise ConfigError(f"{where} has no answer; get the official file again")
            yield (
                where,
                {
                    "passage_id": passage_id,
                    "passage": passage.text("passage"),
                    "question": pair.text("question"),
                    "answers": list(dict.fromkeys(answers)),
                },
            )


def _drop_answer(answer: JsonRow) -> str:
    if number := str(answer.fields.get("number") or "").strip():
        return number
    if spans := answer.fields.get("spans"):
        return SPAN.join(map(str, spans))
    date = answer.fields.get("date") or {}
    parts = [str(date.get(name) or "").strip() for name in ("day", "month", "year")]
    return " ".join(part for part in parts if part)
