"""SQuAD's and DROP's official files."""

from __future__ import annotations

import json

import pytest

from fedtt_lightning.data.question_files import read_drop, read_squad
from fedtt_lightning.errors import ConfigError

QUESTION = {"id": "q1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 3}]}
SQUAD = {"data": [{"title": "Italy", "paragraphs": [{"context": "In Rome.", "qas": [QUESTION]}]}]}
NOTHING = {"number": "", "spans": [], "date": {"day": "", "month": "", "year": ""}}


def drop(answer, *validated):
    pair = {"query_id": "d1", "question": "How many?", "answer": answer}
    pair["validated_answers"] = list(validated)
    return {"nfl_1": {"passage": "Some.", "qa_pairs": [pair]}}


def squad_with(**changes):
    paragraph = {"context": "In Rome.", "qas": [{**QUESTION, **changes}]}
    return {"data": [{"title": "Italy", "paragraphs": [paragraph]}]}


def test_squad(tmp_path):
    answers = [{"text": text, "answer_start": 0} for text in ("Rome", "in Rome", "Rome")]
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(squad_with(answers=answers)))
    ((where, row),) = read_squad(tmp_path, "val")
    assert where == f"{tmp_path}/dev-v1.1.json: question q1"
    assert row == {
        "title": "Italy",
        "context": "In Rome.",
        "question": "Where?",
        "answers": {"text": ["Rome", "in Rome"]},
    }


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({**NOTHING, "number": "3"}, "3"),
        ({**NOTHING, "spans": ["Ann", "Bob"]}, "Ann; Bob"),
        ({**NOTHING, "date": {"day": "", "month": "May", "year": "1945"}}, "May 1945"),
        ({"spans": ["Ann"]}, "Ann"),
    ],
)
def test_answers_of_drop(tmp_path, answer, text):
    content = drop(answer, {**NOTHING, "number": "4"}, NOTHING, answer)
    (tmp_path / "drop_dataset_train.json").write_text(json.dumps(content))
    ((where, row),) = read_drop(tmp_path, "train")
    assert where.endswith("drop_dataset_train.json: question d1")
    assert row == {
        "passage_id": "nfl_1",
        "passage": "Some.",
        "question": "How many?",
        "answers": [text, "4"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"data": \n', r"train-v1\.1\.json:3: no JSON"),
        ("[]", r"train-v1\.1\.json: list in place of an object"),
        ({}, r"train-v1\.1\.json: there is no field 'data'"),
        (squad_with(answers=[]), r"question q1 has no answer; data\.task=squad reads SQuAD 1\.1"),
        (squad_with(question=None), r"question q1: field 'question' is None, not a text"),
    ],
)
def test_broken_squad(tmp_path, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "train-v1.1.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_squad(tmp_path, "train")


def test_broken_drop(tmp_path):
    with pytest.raises(ConfigError, match=r"drop_dataset_dev\.json is missing; .*dataset_train"):
        read_drop(tmp_path, "val")
    (tmp_path / "drop_dataset_dev.json").write_text(json.dumps(drop(NOTHING)))
    with pytest.raises(ConfigError, match=r"question d1 has no answer"):
        read_drop(tmp_path, "val")
