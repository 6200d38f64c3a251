"""Which torchmetrics a task is judged by."""

from __future__ import annotations

from torchmetrics import MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)

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
    over all answers, CoLA `mcc`. STS-B takes scores (N,) and has `pearson`, `spearman`.
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
        metrics.add_metrics({"f1a": BinaryF1Score()})
    if key in _MATTHEWS:
        metrics.add_metrics({"mcc": MulticlassMatthewsCorrCoef(num_labels)})
    return metrics
