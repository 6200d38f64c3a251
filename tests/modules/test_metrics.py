"""Metrics of each task, against scikit-learn and SciPy."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules.metrics import is_regression, main_metric, task_metrics

CLASSIFICATION = [
    ("sst2", 2, ["acc"]),
    ("SST-2", 2, ["acc"]),
    ("mnli", 3, ["acc"]),
    ("builtin", 4, ["acc"]),
    ("cola", 2, ["acc", "mcc"]),
    ("CoLA", 2, ["acc", "mcc"]),
    ("mrpc", 2, ["acc", "f1"]),
    ("qqp", 2, ["acc", "f1"]),
    ("cb", 3, ["acc", "f1"]),
]
REFERENCES = {"acc": accuracy_score, "mcc": matthews_corrcoef, "f1": f1_score}


@pytest.mark.parametrize(("task", "classes", "names"), CLASSIFICATION)
def test_classification_metrics_equal_sklearn(task: str, classes: int, names: list[str]) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(classes, size=57)
    predicted = np.where(rng.random(57) < 0.6, labels, rng.integers(classes, size=57))
    metrics = task_metrics(task, classes)
    for part in np.split(np.arange(57), [20, 50]):  # batches of unequal size
        metrics.update(torch.tensor(predicted[part]), torch.tensor(labels[part]))
    found = metrics.compute()
    assert sorted(found) == names
    for name in names:
        options = {"average": "macro"} if task == "cb" else {}
        expected = REFERENCES[name](labels, predicted, **(options if name == "f1" else {}))
        assert float(found[name]) == pytest.approx(expected, abs=1e-6)
    assert main_metric(task) in found
    assert not is_regression(task)


def test_multirc_counts_answers_and_whole_questions() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(2, size=57)
    predicted = np.where(rng.random(57) < 0.7, labels, 1 - labels)
    metrics = task_metrics("MultiRC", 2)
    for part in np.split(rng.permutation(57), [20, 50]):  # a question's answers in several batches
        groups = [f"question {i // 3}" for i in part]
        metrics.update(torch.tensor(predicted[part]), torch.tensor(labels[part]), group=groups)
    questions = (predicted == labels).reshape(19, 3).all(1)
    assert 0 < questions.sum() < 19
    expected = {"f1a": f1_score(labels, predicted), "em": questions.mean()}
    expected["acc"] = accuracy_score(labels, predicted)
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(
        expected
    )
    with pytest.raises(ConfigError, match="a list 'group'"):
        metrics.update(torch.tensor([1]), torch.tensor([1]), group=None)


@pytest.mark.parametrize("task", ["stsb", "STS-B"])
def test_regression_metrics_equal_scipy(task: str) -> None:
    rng = np.random.default_rng(4)
    scores = rng.uniform(0, 5, 41)
    predicted = scores + rng.normal(0, 1, 41)
    metrics = task_metrics(task, 1)
    for part in np.split(np.arange(41), [11, 40]):
        metrics.update(torch.tensor(predicted[part]), torch.tensor(scores[part]))
    found = metrics.compute()
    assert float(found["pearson"]) == pytest.approx(pearsonr(scores, predicted)[0], abs=1e-5)
    assert float(found["spearman"]) == pytest.approx(spearmanr(scores, predicted)[0], abs=1e-5)
    assert main_metric(task) in found
    assert is_regression(task)
