"""How well an answer's text matches the right ones: exact match and F1, from 0 to 1."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

SPANS = re.compile(r"\s*;\s*")
"""What stands between the spans of one answer, of which DROP has some."""

_DROPPED = str.maketrans("", "", string.punctuation)


def squad_match(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Return SQuAD 1.1's exact match and F1 (arXiv 1606.05250): the best over the right answers.

    Case, punctuation, articles and spaces do not count; F1 is that of words, with repetitions.
    ReCoRD uses the same definitions (arXiv 1810.12885).
    """
    from torchmetrics.functional.text import squad

    texts: Any = {"text": list(references), "answer_start": [0] * len(references)}
    found = squad([{"prediction_text": prediction, "id": ""}], [{"answers": texts, "id": ""}])
    return float(found["exact_match"]) / 100, float(found["f1"]) / 100


def squad_words(text: str) -> str:
    """Return what SQuAD compares of an answer: two that are the same are an exact match."""
    plain = text.lower().translate(_DROPPED)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def drop_match(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Return DROP's exact match and F1 (arXiv 1903.00161): the best over the right answers.

    As in SQuAD, but numbers are compared by value, a span whose number is wrong scores nothing, F1
    is that of the set of words, and of several spans (`SPANS`) each is compared with one other, so
    that the sum of F1 is largest. F1 is rounded to two digits, as DROP's script does.
    """
    matches = [_drop(prediction, reference) for reference in references]
    return max(em for em, _ in matches), max(f1 for _, f1 in matches)


def _drop(prediction: str, reference: str) -> tuple[float, float]:
    from scipy.optimize import linear_sum_assignment

    found, gold = _spans(prediction), _spans(reference)
    table = np.array([[_span_f1(mine, theirs) for mine in found] for theirs in gold])
    total = table[linear_sum_assignment(table, maximize=True)].sum()
    f1 = round(float(total) / max(len(found), len(gold)), 2)
    same = set(found) == set(gold) and len(found) == len(gold)
    return float(same), f1


def _spans(answer: str) -> list[str]:
    """Return the spans of an answer, each as lower-case words without articles."""
    return [_normal(span) for span in SPANS.split(answer.strip())]


def _normal(span: str) -> str:
    words = []
    for word in re.split("[ -]", span.lower()):
        plain = word if _is_number(word) else word.translate(_DROPPED)
        plain = str(float(plain)) if _is_number(plain) else plain
        words += re.sub(r"\b(a|an|the)\b", " ", plain).split()
    return " ".join(words)


def _span_f1(found: str, gold: str) -> float:
    mine, theirs = set(found.split()), set(gold.split())
    numbers = {word for word in theirs if _is_number(word)}
    if numbers and not numbers & mine:
        return 0.0
    common = len(mine & theirs)
    precision = common / len(mine) if mine else 1.0
    recall = common / len(theirs) if theirs else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
