"""The official JSONL folders: what they hold, and where they are broken."""

from __future__ import annotations

import json

import pytest

from fedtt_lightning.data.superglue_files import TASKS, read_superglue
from fedtt_lightning.errors import ConfigError

MULTIRC = {
    "idx": 3,
    "passage": {
        "text": "Ann sold fish.",
        "questions": [
            {
                "idx": 8,
                "question": "Who?",
                "answers": [
                    {"text": "Ann", "idx": 0, "label": 1},
                    {"text": "Bob", "idx": 1, "label": 0},
                ],
            },
            {"idx": 9, "question": "What?", "answers": [{"text": "Fish", "idx": 2, "label": 1}]},
        ],
    },
}
RECORD = {
    "idx": 5,
    "passage": {
        "text": "Bob and Ann and Bob.",
        "entities": [
            {"start": 16, "end": 18},
            {"start": 8, "end": 10},
            {"start": 0, "end": 2},
        ],
    },
    "qas": [
        {
            "query": "@placeholder first",
            "idx": 1,
            "answers": [{"start": 0, "end": 2, "text": "Bob"}],
        },
        {
            "query": "@placeholder all",
            "idx": 2,
            "answers": [{"text": "Bob"}, {"text": "Ann"}, {"text": "Bob"}],
        },
    ],
}
WSC = {
    "text": "Ann saw it.",
    "target": {"span1_text": "Ann", "span2_text": "it", "span1_index": 0, "span2_index": 2},
    "label": True,
}


def write(folder, *rows, split="train"):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def fields(rows):
    return [row for _, row in rows]


def test_nested_tasks_become_flat_rows(tmp_path):
    write(tmp_path, MULTIRC)
    rows = fields(read_superglue(tmp_path, "multirc", "train"))
    assert [(row["question"], row["answer"], row["label"]) for row in rows] == [
        ("Who?", "Ann", 1),
        ("Who?", "Bob", 0),
        ("What?", "Fish", 1),
    ]
    assert [row["idx"] for row in rows] == [
        {"paragraph": 3, "question": 8},
        {"paragraph": 3, "question": 8},
        {"paragraph": 3, "question": 9},
    ]
    write(tmp_path, RECORD)
    rows = fields(read_superglue(tmp_path, "record", "train"))
    assert [row["entities"] for row in rows] == [["Bob", "Ann"]] * 2
    assert [row["answers"] for row in rows] == [["Bob"], ["Bob", "Ann"]]
    write(tmp_path, WSC)
    (row,) = fields(read_superglue(tmp_path, "wsc", "train"))
    assert row == {
        "text": "Ann saw it.",
        "label": 1,
        "span1_text": "Ann",
        "span2_text": "it",
        "span2_index": 2,
    }


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("boolq", {"question": "is it", "passage": "It is."}),
        ("cb", {"premise": "a", "hypothesis": "b"}),
        ("copa", {"premise": "a", "choice1": "b", "choice2": "c", "question": "cause"}),
        ("rte", {"premise": "a", "hypothesis": "b"}),
    ],
)
def test_labels_are_the_class_ids_of_the_hub(tmp_path, task, row):
    written = TASKS[task].labels
    write(tmp_path, *({**row, "label": label, "idx": 1} for label in written), "")
    rows = read_superglue(tmp_path, task, "train")
    assert [found["label"] for _, found in rows] == list(range(len(written)))
    assert [where for where, _ in rows] == [
        f"{tmp_path}/train.jsonl:{line}" for line in range(1, len(written) + 1)
    ]
    assert rows[0][1] == {**row, "label": 0}


def test_a_test_set_has_no_labels(tmp_path):
    write(tmp_path, {"question": "is it", "passage": "It is.", "idx": 0}, split="test")
    assert fields(read_superglue(tmp_path, "boolq", "test"))[0]["label"] == -1
    queries = [{"query": "@placeholder", "idx": 0}]
    write(tmp_path, {**RECORD, "qas": queries}, split="test")
    assert fields(read_superglue(tmp_path, "record", "test"))[0]["answers"] == []


BOOLQ = {"question": "is it", "passage": "It is.", "label": True}
COPA = {"premise": "a", "choice1": "b", "choice2": "c", "question": "cause", "label": 0}


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        (
            "boolq",
            [BOOLQ, {"question": "a"}],
            r"jsonl:2: there is no field 'passage' \(fields: que",
        ),
        ("boolq", [BOOLQ, "", '{"question": '], r"jsonl:3: no JSON"),
        ("boolq", ["[1]"], r"jsonl:1: list in place of an object"),
        ("boolq", [{**BOOLQ, "passage": 3}], r"jsonl:1: field 'passage' is 3, not a text"),
        ("boolq", [{**BOOLQ, "label": 2}], r"jsonl:1: label 2 is not one of BoolQ's: false, true"),
        ("boolq", [{**BOOLQ, "label": [0]}], r"jsonl:1: label \[0\] is not one of"),
        ("copa", [{**COPA, "label": 2}], r"jsonl:1: label 2 is not one of COPA's: 0, 1"),
        ("copa", [{**COPA, "question": "why"}], r"'question' is 'why', not cause or effect"),
        ("cb", [{"premise": "a", "hypothesis": "b"}], r"jsonl:1: there is no field 'label'"),
        ("wsc", [{**WSC, "target": "it"}], r"jsonl:1: field 'target' is 'it', not an object"),
        ("record", [{**RECORD, "qas": [3]}], r"jsonl:1: field 'qas' is not a list of objects"),
        (
            "record",
            [{**RECORD, "qas": [{"query": "q", "answers": []}]}],
            r"jsonl:1: a query has no answers",
        ),
        ("multirc", [RECORD], r"jsonl:1: there is no field 'questions'"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, task, rows, message):
    with pytest.raises(ConfigError, match=message):
        read_superglue(write(tmp_path, *rows), task, "train")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"val\.jsonl is missing; data\.data_dir .*CB/train"):
        read_superglue(tmp_path, "cb", "val")


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "rows", "positive"),
    [("BoolQ", 3270, 2033), ("CB", 56, 28), ("COPA", 100, 45), ("WiC", 638, 319), ("WSC", 104, 38)],
)
def test_real_files(shared, folder, rows, positive):
    path = shared / "data/superglue" / folder
    assert len(read_superglue(path, folder.lower(), "train")) == 32
    labels = [row["label"] for _, row in read_superglue(path, folder.lower(), "val")]
    assert (len(labels), labels.count(1)) == (rows, positive)
