"""How each task is asked of a language model: one function a task, from a row to a `Prompt`.

Rows have the columns of the hub's copies. Wording and the order of the parts follow those of GPT-3
(Brown et al., arXiv 2005.14165, appendix G) where it has the task. A passage is the context, which
alone may be cut to fit; an answer begins with a space, so that its tokens are those of running
text. Candidates stand in the order of the class ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fedtt_lightning.data.prompts import Prompt

Row = Mapping[str, Any]

NO_YES = (" no", " yes")


def boolq(row: Row) -> Prompt:
    return _choose(row, f"{row['passage']}\n", f"Question: {row['question']}?\nAnswer:", NO_YES)


def cb(row: Row) -> Prompt:
    question = f"Question: {row['hypothesis']}. True, False or Neither?\nAnswer:"
    return _choose(row, f"{row['premise']}\n", question, (" True", " False", " Neither"))


def copa(row: Row) -> Prompt:
    """The premise goes on with "because" or "so", and the candidates are how it may end."""
    word = "because" if row["question"] == "cause" else "so"
    choices = tuple(f" {_uncapitalized(row[name])}" for name in ("choice1", "choice2"))
    return _choose(row, "", f"{row['premise'].rstrip('. ')} {word}", choices)


def multirc(row: Row) -> Prompt:
    """Each answer of a question is judged by itself; `group` is the question."""
    question = f"Question: {row['question']}\nAnswer: {row['answer']}\nIs the answer correct?"
    return _choose(
        row,
        f"{plain_paragraph(row['paragraph'])}\n",
        question,
        NO_YES,
        group=question_of(row),
        columns={"paragraph": row["idx"]["paragraph"]},
    )


def record(row: Row) -> Prompt:
    """Candidates are the passage's entities, of which several may be right."""
    question = f"{row['query']}\nQuestion: What is @placeholder?\nAnswer:"
    return Prompt(
        f"{plain_highlights(row['passage'])}\n",
        question,
        tuple(f" {answer}" for answer in dict.fromkeys(row["answers"])),
        tuple(f" {entity}" for entity in dict.fromkeys(row["entities"])),
        columns={"passage": row["idx"]["passage"]},
    )


def rte(row: Row) -> Prompt:
    question = f"Question: {row['hypothesis']} True or False?\nAnswer:"
    return _choose(row, f"{row['premise']}\n", question, (" True", " False"))


def wic(row: Row) -> Prompt:
    """Nothing can be cut: both sentences are needed."""
    question = (
        f"Sentence 1: {row['sentence1']}\nSentence 2: {row['sentence2']}\n"
        f'Question: Is the word "{row["word"]}" used in the same sense in both sentences?\nAnswer:'
    )
    return _choose(row, "", question, NO_YES)


def wsc(row: Row) -> Prompt:
    """The pronoun stands between asterisks."""
    pronoun, noun = row["span2_text"], row["span1_text"]
    question = (
        f'Question: In the passage above, does the pronoun "*{pronoun}*" refer to "{noun}"?\n'
        "Answer:"
    )
    return _choose(row, f"{marked_pronoun(row)}\n", question, NO_YES)


def sst2(row: Row) -> Prompt:
    text = f"Review: {row['sentence'].strip()}\n"
    return _choose(row, text, "Sentiment:", (" negative", " positive"))


def squad(row: Row) -> Prompt:
    return Prompt(
        f"{row['context']}\n",
        f"Question: {row['question'].strip()}\nAnswer:",
        tuple(f" {text}" for text in dict.fromkeys(row["answers"]["text"])),
        columns={"title": row["title"]},
    )


def drop(row: Row) -> Prompt:
    return Prompt(
        f"{row['passage']}\n",
        f"Question: {row['question'].strip()}\nAnswer:",
        tuple(f" {text}" for text in row["answers"]),
        columns={"passage_id": row["passage_id"]},
    )


TEMPLATES: dict[str, Callable[[Row], Prompt]] = {
    "boolq": boolq,
    "cb": cb,
    "copa": copa,
    "multirc": multirc,
    "record": record,
    "rte": rte,
    "wic": wic,
    "wsc": wsc,
    "sst2": sst2,
    "squad": squad,
    "drop": drop,
}


def marked_pronoun(row: Row) -> str:
    """Return WSC's text with the pronoun between asterisks.

    Where it stands more than once, it is the one nearest to its word, counted from 0: some words of
    the official files are counted wrong. Without one, nothing is marked.
    """
    text, pronoun = row["text"].strip(), row["span2_text"]
    found = re.finditer(rf"(?<!\w){re.escape(pronoun)}(?!\w)", text)
    starts = {match.start(): len(text[: match.start()].split()) for match in found}
    if not starts:
        return text
    start = min(starts, key=lambda place: abs(starts[place] - row["span2_index"]))
    return f"{text[:start]}*{pronoun}*{text[start + len(pronoun) :]}"


def plain_paragraph(text: str) -> str:
    """Return MultiRC's paragraph without the HTML that numbers its sentences."""
    text = re.sub(r"<b>Sent \d+: </b>", "", text)
    return re.sub(r"</?b>", "", text.replace("<br>", " ")).strip()


def question_of(row: Row) -> str:
    """Return the name of the question that an answer of MultiRC belongs to."""
    return f"{row['idx']['paragraph']}/{row['idx']['question']}"


def plain_highlights(text: str) -> str:
    """Return ReCoRD's passage with its highlights as sentences, as T5 does."""
    text = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", text)
    return text.replace("\n@highlight\n", ". ")


def _choose(
    row: Row,
    context: str,
    question: str,
    candidates: tuple[str, ...],
    group: str | None = None,
    columns: Mapping[str, str | int] | None = None,
) -> Prompt:
    label = int(row["label"])
    known = label >= 0
    return Prompt(
        context,
        question,
        (candidates[label],) if known else (),
        candidates,
        label if known else None,
        group,
        columns=columns or {},
    )


def _uncapitalized(sentence: str) -> str:
    keeps = re.match(r"I\b", sentence) is not None
    return sentence if keeps else sentence[:1].lower() + sentence[1:]
