"""Which torchmetrics a task is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)
from torchmetrics.utilities import dim_zero_cat

from fedtt_lightning.errors import ConfigError

REGRESSION = frozenset({"stsb"})
_F1 = frozenset({"mrpc", "qqp"})
_MATTHEWS = frozenset({"cola"})


def task_key(task: str) -> str:
    """Return the task's name as the tables here write it: `SST-2` and `sst2` are one task."""
    return task.lower().replace("-", "").replace("_", "")


def is_regression(task: str) -> bool:
    """Tell whether the labels are scores (STS-B) rather than classes."""
    return task_key(task) in REGRESSION


def main_metric(task: str) -> str:
    """Return the short name of the metric to select by: `acc`, `mcc`, `f1` or `pearson`."""
    key = task_key(task)
    if key in REGRESSION:
        return "pearson"
    return "mcc" if key in _MATTHEWS else "f1" if key in _F1 else "acc"


def task_metrics(task: str, num_labels: int) -> MetricCollection:
    """Return GLUE's and SuperGLUE's metrics of a task (arXiv 1804.07461, 1905.00537), or accuracy.

    Classification takes predicted classes (N,) and labels (N,), and always has `acc`; MRPC and QQP
    add `f1` of class 1, CommitmentBank `f1` as the mean of its classes, MultiRC `f1a` of class 1
    over all answers and `em`, the share of questions with every answer right, whose names its
    `update` takes as `group`; CoLA `mcc`. STS-B takes scores (N,) and has `pearson`, `spearman`.
    """
    key = task_key(task)
    if key in REGRESSION:
        return MetricCollection({"pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef()})
    metrics = MetricCollection({"acc": MulticlassAccuracy(num_labels, average="micro")})
    if key in _F1:
        metrics.add_metrics({"f1": BinaryF1Score()})
    if key == "cb":
        metrics.add_metrics({"f1": MulticlassF1Score(num_labels, average="macro")})
    if key == "multirc":
        metrics.add_metrics({"f1a": BinaryF1Score(), "em": QuestionMatch()})
    if key in _MATTHEWS:
        metrics.add_metrics({"mcc": MulticlassMatthewsCorrCoef(num_labels)})
    return metrics


class QuestionMatch(Metric):
    """The share of questions of which every answer is right."""

    full_state_update = False
    higher_is_better = True
    questions: list[Tensor]
    right: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("questions", [], dist_reduce_fx="cat")
        self.add_state("right", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor, group: Sequence[str] | None = None) -> None:
        """Add predicted classes (B,), labels (B,) and the questions that they belong to.

        ConfigError without questions.
        """
        if group is None:
            raise ConfigError(
                "the exact match of task multirc is of whole questions: put the question of each "
                "answer into the batches that evaluate, as a list 'group'"
            )
        right = preds == target
        keys = [sha256(question.encode()).digest()[:8] for question in group]
        numbers = [int.from_bytes(key, "big", signed=True) for key in keys]
        self.questions.append(torch.tensor(numbers, device=right.device))
        self.right.append(right.long())

    def compute(self) -> Tensor:
        questions, right = dim_zero_cat(self.questions), dim_zero_cat(self.right)
        unique, index = questions.unique(return_inverse=True)
        wrong = torch.zeros_like(unique).index_add(0, index, 1 - right)
        return (wrong == 0).float().mean()
