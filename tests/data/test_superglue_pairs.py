"""SuperGLUE's rows as pairs of texts."""

from __future__ import annotations

import pytest

from fedtt_lightning.data.superglue_files import read_superglue
from fedtt_lightning.data.superglue_pairs import PAIRS

CASES = {
    "boolq": ({"question": "is it", "passage": "It is."}, ("is it", "It is.")),
    "cb": ({"premise": "Ann runs.", "hypothesis": "Ann moves"}, ("Ann runs.", "Ann moves")),
    "rte": ({"premise": "Ann runs.", "hypothesis": "Ann moves."}, ("Ann runs.", "Ann moves.")),
    "copa": (
        {"premise": "It rained.", "choice1": "I fell.", "choice2": "I ran.", "question": "effect"},
        ("It rained. What was the effect of this?", "1: I fell. 2: I ran."),
    ),
    "multirc": (
        {"paragraph": "<b>Sent 1: </b>It is.<br>", "question": "Is it?", "answer": "Yes"},
        ("It is.", "Is it? Yes"),
    ),
    "wic": (
        {
            "word": "bank",
            "sentence1": "The banks lent.",
            "sentence2": "A bank",
            "start1": 4,
            "end1": 9,
            "start2": 2,
            "end2": 6,
        },
        ("The *banks* lent.", "A *bank*"),
    ),
    "wsc": (
        {"text": "Ann saw it.", "span1_text": "Ann", "span2_text": "it", "span2_index": 2},
        ("Ann saw *it*.", "Ann"),
    ),
}


@pytest.mark.parametrize("task", PAIRS)
def test_pair(task):
    row, pair = CASES[task]
    assert PAIRS[task](row) == pair


@pytest.mark.real
def test_real_words_are_marked_where_they_stand(shared):
    """WiC's places are of characters: without the marks, the sentences are the official ones."""
    for _, row in read_superglue(shared / "data/superglue/WiC", "wic", "val"):
        for name, text in zip(("sentence1", "sentence2"), PAIRS["wic"](row), strict=True):
            if "*" in row[name]:
                continue
            before, word, after = text.split("*")
            assert before + word + after == row[name] and word.strip() == word != ""
