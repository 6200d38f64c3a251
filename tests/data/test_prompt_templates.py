"""Every template, against the text that it should make of a row."""

from __future__ import annotations

import json

import pytest

from fedtt_lightning.data.prompt_templates import (
    TEMPLATES,
    marked_pronoun,
    plain_highlights,
    plain_paragraph,
)
from fedtt_lightning.data.superglue_files import read_superglue

PARAGRAPH = "<b>Sent 1: </b>Ann sold fish.<br><b>Sent 2: </b>Bob ate it.<br>"
ROWS = {
    "boolq": {"passage": "Tea -- a drink.", "question": "is tea a drink", "label": 1},
    "cb": {"premise": "I doubt it rained.", "hypothesis": "it rained", "label": 1},
    "copa": {
        "premise": "The ice melted.",
        "choice1": "The sun shone.",
        "choice2": "I froze it.",
        "question": "cause",
        "label": 0,
    },
    "multirc": {
        "paragraph": PARAGRAPH,
        "question": "Who ate fish?",
        "answer": "Ann",
        "idx": {"paragraph": 4, "question": 12, "answer": 33},
        "label": 0,
    },
    "record": {
        "passage": "Ann met Bob in Rome\n@highlight\nBob left.\n@highlight\nAnn stayed",
        "query": "@placeholder is in Italy",
        "entities": ["Ann", "Bob", "Rome", "Bob"],
        "answers": ["Rome", "Rome"],
        "idx": {"passage": 7, "query": 9},
    },
    "rte": {"premise": "Ann runs.", "hypothesis": "Ann moves.", "label": 0},
    "wic": {
        "word": "bank",
        "sentence1": "The bank lent.",
        "sentence2": "A river bank.",
        "label": 0,
    },
    "wsc": {
        "text": 'The box held the "ball", but it was full, for it is small.',
        "span1_text": "The box",
        "span2_text": "it",
        "span2_index": 10,
        "label": 1,
    },
    "sst2": {"sentence": "a fine film ", "label": 1},
    "squad": {
        "title": "Rome",
        "context": "Rome lies on the Tiber.",
        "question": " Where does Rome lie?",
        "answers": {"text": ["on the Tiber", "the Tiber", "on the Tiber"]},
    },
    "drop": {
        "passage_id": "nfl_1",
        "passage": "Ann ran 5 yards, then 7.",
        "question": "How many yards?",
        "answers": ["12", "5; 7"],
    },
}
# Context, question, candidates (or None) and right answers.
EXPECTED = {
    "boolq": (
        "Tea -- a drink.\n",
        "Question: is tea a drink?\nAnswer:",
        (" no", " yes"),
        (" yes",),
    ),
    "cb": (
        "I doubt it rained.\n",
        "Question: it rained. True, False or Neither?\nAnswer:",
        (" True", " False", " Neither"),
        (" False",),
    ),
    "copa": (
        "",
        "The ice melted because",
        (" the sun shone.", " I froze it."),
        (" the sun shone.",),
    ),
    "multirc": (
        "Ann sold fish. Bob ate it.\n",
        "Question: Who ate fish?\nAnswer: Ann\nIs the answer correct?",
        (" no", " yes"),
        (" no",),
    ),
    "record": (
        "Ann met Bob in Rome. Bob left. Ann stayed\n",
        "@placeholder is in Italy\nQuestion: What is @placeholder?\nAnswer:",
        (" Ann", " Bob", " Rome"),
        (" Rome",),
    ),
    "rte": (
        "Ann runs.\n",
        "Question: Ann moves. True or False?\nAnswer:",
        (" True", " False"),
        (" True",),
    ),
    "wic": (
        "",
        "Sentence 1: The bank lent.\nSentence 2: A river bank.\n"
        'Question: Is the word "bank" used in the same sense in both sentences?\nAnswer:',
        (" no", " yes"),
        (" no",),
    ),
    "wsc": (
        'The box held the "ball", but it was full, for *it* is small.\n',
        'Question: In the passage above, does the pronoun "*it*" refer to "The box"?\nAnswer:',
        (" no", " yes"),
        (" yes",),
    ),
    "sst2": ("Review: a fine film\n", "Sentiment:", (" negative", " positive"), (" positive",)),
    "squad": (
        "Rome lies on the Tiber.\n",
        "Question: Where does Rome lie?\nAnswer:",
        None,
        (" on the Tiber", " the Tiber"),
    ),
    "drop": (
        "Ann ran 5 yards, then 7.\n",
        "Question: How many yards?\nAnswer:",
        None,
        (" 12", " 5; 7"),
    ),
}


@pytest.mark.parametrize("task", TEMPLATES)
def test_template(task):
    prompt = TEMPLATES[task](ROWS[task])
    assert (prompt.context, prompt.question, prompt.candidates, prompt.answers) == EXPECTED[task]
    assert prompt.label == ROWS[task].get("label")
    assert prompt.group == ("4/12" if task == "multirc" else None)


def test_natural_clients_have_a_column():
    columns = {task: dict(TEMPLATES[task](ROWS[task]).columns) for task in TEMPLATES}
    assert {task: found for task, found in columns.items() if found} == {
        "multirc": {"paragraph": 4},
        "record": {"passage": 7},
        "squad": {"title": "Rome"},
        "drop": {"passage_id": "nfl_1"},
    }


@pytest.mark.parametrize("task", [task for task in TEMPLATES if "label" in ROWS[task]])
def test_a_row_of_unknown_class_has_no_answer(task):
    prompt = TEMPLATES[task]({**ROWS[task], "label": -1})
    assert (prompt.label, prompt.answers) == (None, ())
    assert prompt.candidates == EXPECTED[task][2]


def test_effects_go_on_with_so_and_only_i_stays_a_capital():
    row = {**ROWS["copa"], "question": "effect", "choice1": "Ice fell.", "choice2": "I'm wet."}
    prompt = TEMPLATES["copa"](row)
    assert prompt.question == "The ice melted so"
    assert prompt.candidates == (" ice fell.", " I'm wet.")


def test_a_pronoun_counted_wrong_is_found_near_by():
    row = ROWS["wsc"]
    assert marked_pronoun({**row, "span2_index": 9}) == marked_pronoun(row)
    assert "but *it* was" in marked_pronoun({**row, "span2_index": 5})


def test_texts_of_another_form_are_left_as_they_are():
    row = {**ROWS["wsc"], "span2_text": "she"}
    assert marked_pronoun(row) == row["text"]
    assert plain_paragraph("No tags here.") == "No tags here."
    assert plain_highlights('He left."\n@highlight\nShe stayed') == 'He left." She stayed'


REAL = {
    "boolq": lambda raw: (raw["passage"], raw["question"]),
    "cb": lambda raw: (raw["premise"], raw["hypothesis"]),
    "copa": lambda raw: (raw["premise"].rstrip(". "),),
    "wic": lambda raw: (raw["sentence1"], raw["sentence2"], f'"{raw["word"]}"'),
    "wsc": lambda raw: (
        raw["target"]["span1_text"],
        f"*{raw['target']['span2_text']}*",
    ),
}


@pytest.mark.real
@pytest.mark.parametrize("folder", ["BoolQ", "CB", "COPA", "WiC", "WSC"])
def test_real_rows(shared, folder):
    """Nothing of a row is lost, whatever its characters; the label's word is the answer."""
    path = shared / "data/superglue" / folder
    task = folder.lower()
    rows = read_superglue(path, task, "val")
    lines = (path / "val.jsonl").read_text(encoding="utf-8").strip().split("\n")
    marked = 0
    for line, (where, row) in zip(lines, rows, strict=True):
        raw, prompt = json.loads(line), TEMPLATES[task](row)
        asked = prompt.context + prompt.question
        assert all(text in asked for text in REAL[task](raw)), where
        right = {
            "cb": {"entailment": " True", "contradiction": " False", "neutral": " Neither"},
            "copa": dict(enumerate(prompt.candidates)),
        }.get(task, {False: " no", True: " yes"})[raw["label"]]
        assert prompt.answers == (right,)
        marked += "*" in prompt.context
    if task == "wsc":
        assert marked == len(rows)
