"""Metrics of each task, against scikit-learn and what the official scripts define."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from fedtt_lightning.modules.answer_loss import Likelihood
from fedtt_lightning.modules.answer_metrics import answer_metrics, count_choices, count_texts
from fedtt_lightning.modules.text_match import drop_match, squad_match


def choices(classes: int, count: int = 57) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(classes, size=count)
    return np.where(rng.random(count) < 0.6, labels, rng.integers(classes, size=count)), labels


def values(metrics: torch.nn.ModuleDict) -> dict[str, float]:
    return {name: float(metric.compute()) for name, metric in metrics.items()}


@pytest.mark.parametrize("task", ["boolq", "copa", "RTE", "wic", "WSC", "sst-2", "cb", "something"])
def test_accuracy_and_the_mean_f1_of_commitmentbank(task: str) -> None:
    predicted, labels = choices(3)
    metrics = answer_metrics(task)
    for part in np.split(np.arange(57), [20, 50]):  # batches of unequal size
        batch = {"label": torch.tensor(labels[part])}
        found = count_choices(metrics, torch.tensor(predicted[part]), batch)
        assert set(found) == set(metrics)
    expected = {"acc": accuracy_score(labels, predicted)}
    if task == "cb":
        by_class = [f1_score(labels == c, predicted == c) for c in range(3)]
        expected["f1"] = sum(by_class) / 3
    assert values(metrics) == pytest.approx(expected)


def test_multirc_counts_answers_and_whole_questions() -> None:
    predicted, labels = choices(2)
    groups = [f"question {i // 3}" for i in range(57)]
    metrics = answer_metrics("multirc")
    order = np.random.default_rng(0).permutation(57)
    for part in np.split(order, [7, 30]):  # a question's answers may lie in several batches
        batch = {"label": torch.tensor(labels[part]), "group": [groups[i] for i in part]}
        count_choices(metrics, torch.tensor(predicted[part]), batch)
    right = (predicted == labels).reshape(-1, 3).all(1)
    assert 0 < right.sum() < 19
    expected = {"f1a": f1_score(labels, predicted), "em": right.mean()}
    assert values(metrics) == pytest.approx(expected)


def test_record_takes_the_best_of_several_right_answers() -> None:
    batch = {
        "label": torch.tensor([-1, -1, -1]),
        "answers": [["Ann Lee", "Bob"], ["the Thames", "Rome"], ["Rome", "Oslo"]],
        "gold": [["Bob", "Ann Marie Lee"], ["Thames"], ["Oslo"]],
    }
    metrics = answer_metrics("record")
    count_choices(metrics, torch.tensor([0, 0, 0]), batch)
    assert values(metrics) == pytest.approx({"em": 1 / 3, "f1": (0.8 + 1 + 0) / 3})


def test_unknown_answers_do_not_count() -> None:
    metrics = answer_metrics("cb")
    assert count_choices(metrics, torch.tensor([1]), {"label": torch.tensor([-1])}) == {}
    count_choices(metrics, torch.tensor([1, 0, 2]), {"label": torch.tensor([1, -1, 0])})
    assert values(metrics)["acc"] == 0.5
    assert count_texts(answer_metrics("squad"), ["x"], [[]]) == {}


def test_perplexity_is_that_of_all_tokens_together() -> None:
    metric = answer_metrics("text")["perplexity"]
    nll, tokens = torch.tensor([3.0, 8.0, 0.5]), torch.tensor([2, 6, 1])
    metric.update(Likelihood(nll[:2], tokens[:2]))
    metric.update(Likelihood(nll[2:], tokens[2:]))
    metric.update(Likelihood(torch.zeros(1), torch.zeros(1, dtype=torch.long)))
    assert float(metric.compute()) == pytest.approx(np.exp(11.5 / 9))
    metric.update(Likelihood(torch.tensor([torch.nan]), torch.tensor([1])))
    assert torch.isnan(metric.compute())


def test_squad_ignores_case_articles_and_punctuation() -> None:
    assert squad_match("The  Eiffel-Tower!", ["eiffeltower"]) == (1, 1)
    assert squad_match("a red car", ["red bus", "car"]) == (0, pytest.approx(2 / 3))
    assert squad_match("", ["x"]) == (0, 0)


DROP = [  # prediction, right answer, exact match, F1, by hand from the definitions
    ("25", "25", 1, 1),
    ("25.0 yards", "25 yards", 1, 1),
    ("1,000", "1000", 1, 1),
    ("26 yards", "25 yards", 0, 0),
    ("field goal of 25 yards", "25 yards", 0, 0.57),
    ("The Packers", "packers", 1, 1),
    ("nineteen-year-old", "nineteen year old", 1, 1),
    ("Smith; Jones", "Jones; Smith", 1, 1),
    ("Smith", "Jones; Smith", 0, 0.5),
    ("Smith; Jones; Brown", "John Smith", 0, 0.22),
    ("", "Smith", 0, 0),
]


@pytest.mark.parametrize(("prediction", "right", "em", "f1"), DROP)
def test_drop_by_hand(prediction: str, right: str, em: float, f1: float) -> None:
    assert drop_match(prediction, [right]) == (em, pytest.approx(f1))
    assert drop_match(prediction, ["something else", right])[1] == pytest.approx(f1)


def test_drop_aligns_spans_as_well_as_any_order_could() -> None:
    rng = np.random.default_rng(1)
    words = ["red", "green", "blue", "big", "car"]
    for _ in range(30):
        gold, mine = (
            [" ".join(rng.choice(words, 1 + i % 2, replace=False)) for i in range(size)]
            for size in rng.integers(1, 4, 2)
        )
        short, long = sorted((gold, mine), key=len)
        best = max(
            sum(2 * len({*a.split()} & {*b.split()}) / len([*a.split(), *b.split()]) for a, b in z)
            for z in (list(zip(short, order, strict=False)) for order in permutations(long))
        )
        _, f1 = drop_match("; ".join(mine), ["; ".join(gold)])
        assert f1 == round(best / len(long), 2)


def test_generated_answers_of_drop_and_squad_count_each_by_its_own() -> None:
    texts, right = ["26 yards", "b"], [["25 yards"], ["b"]]
    drop, squad = answer_metrics("drop"), answer_metrics("squad")
    count_texts(drop, texts, right, "drop")
    count_texts(squad, texts, right, "squad")
    assert values(drop) == pytest.approx({"em": 0.5, "f1": 0.5})
    assert values(squad) == pytest.approx({"em": 0.5, "f1": 0.75})
