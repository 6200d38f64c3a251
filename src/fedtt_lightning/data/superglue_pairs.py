"""SuperGLUE for encoders: each row as a pair of texts, to classify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedtt_lightning.data.prompt_templates import marked_pronoun, plain_paragraph

Row = Mapping[str, Any]


def boolq(row: Row) -> tuple[str, str]:
    return row["question"], row["passage"]


def entailment(row: Row) -> tuple[str, str]:
    return row["premise"], row["hypothesis"]


def copa(row: Row) -> tuple[str, str]:
    """Return premise with question, and both choices as one text: the class is the choice."""
    return (
        f"{row['premise']} What was the {row['question']} of this?",
        f"1: {row['choice1']} 2: {row['choice2']}",
    )


def multirc(row: Row) -> tuple[str, str]:
    return plain_paragraph(row["paragraph"]), f"{row['question']} {row['answer']}"


def wic(row: Row) -> tuple[str, str]:
    """Return both sentences, with the word between asterisks in each."""
    first, second = (
        f"{text[:start]}*{text[start:end]}*{text[end:]}"
        for text, start, end in (
            (row[f"sentence{i}"], row[f"start{i}"], row[f"end{i}"]) for i in "12"
        )
    )
    return first, second


def wsc(row: Row) -> tuple[str, str]:
    """Return the text, with the pronoun between asterisks, and the noun it may stand for."""
    return marked_pronoun(row), row["span1_text"]


@dataclass(frozen=True)
class PadGroups:
    """Collate examples as `pad` does, and `group`, a list of what is judged together."""

    pad: Callable[[list[Any]], Any]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        return {**self.pad(list(examples)), "group": [example["group"] for example in examples]}


PAIRS: dict[str, Callable[[Row], tuple[str, str]]] = {
    "boolq": boolq,
    "cb": entailment,
    "copa": copa,
    "multirc": multirc,
    "rte": entailment,
    "wic": wic,
    "wsc": wsc,
}
