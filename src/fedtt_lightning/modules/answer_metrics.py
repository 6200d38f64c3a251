"""Which torchmetrics a language model's answers are judged by, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryF1Score, MulticlassF1Score

from fedtt_lightning.modules.answer_loss import Likelihood
from fedtt_lightning.modules.metrics import QuestionMatch, task_key
from fedtt_lightning.modules.text_match import drop_match, squad_match

_TEXT = frozenset({"record", "squad", "drop"})


def answer_metrics(task: str) -> nn.ModuleDict:
    """Return a task's metrics by short name; for one that is not known here, accuracy.

    SuperGLUE's (arXiv 1905.00537): `acc`; CommitmentBank also the mean F1 of its three classes,
    `f1`; MultiRC F1 over all answers, `f1a`, and the share of questions with every answer right,
    `em`; ReCoRD `em` and `f1`. SQuAD and DROP: `em` and `f1`. Language modelling and instructions:
    `perplexity`, of all answer tokens.
    """
    key = task_key(task)
    if key == "multirc":
        return nn.ModuleDict({"f1a": BinaryF1Score(), "em": QuestionMatch()})
    if key in _TEXT:
        return nn.ModuleDict({"em": MeanMetric(), "f1": MeanMetric()})
    if key in ("text", "instructions"):
        return nn.ModuleDict({"perplexity": Perplexity()})
    metrics = nn.ModuleDict({"acc": MeanMetric()})
    if key == "cb":
        metrics["f1"] = MulticlassF1Score(3, average="macro")
    return metrics


def count_choices(metrics: Any, chosen: Tensor, batch: Mapping[str, Any]) -> dict[str, Metric]:
    """Update what judges chosen candidates (B,), of examples whose answer is known; return it.

    ReCoRD's are judged by their text, `answers`, against all that are right, `gold`.
    """
    if "gold" in batch:
        texts = [answers[i] for answers, i in zip(batch["answers"], chosen.tolist(), strict=True)]
        return count_texts(metrics, texts, batch["gold"])
    label = batch["label"]
    known = label >= 0
    right = (chosen == label)[known]
    if not len(right):
        return {}
    if "f1a" in metrics:
        metrics["f1a"].update(chosen[known], label[known])
        pairs = zip(batch["group"], known.tolist(), strict=True)
        groups = [group for group, is_known in pairs if is_known]
        metrics["em"].update(chosen[known], label[known], groups)
        return {"f1a": metrics["f1a"], "em": metrics["em"]}
    metrics["acc"].update(right.float())
    if "f1" in metrics:
        metrics["f1"].update(chosen[known], label[known])
    return {name: metrics[name] for name in ("acc", "f1") if name in metrics}


def count_texts(
    metrics: Any, texts: Sequence[str], references: Sequence[Sequence[str]], task: str = "squad"
) -> dict[str, Metric]:
    """Update what judges answers as text, of examples that have references; return it."""
    match = drop_match if task_key(task) == "drop" else squad_match
    pairs = [(t, r) for t, r in zip(texts, references, strict=True) if r]
    for text, right in pairs:
        em, f1 = match(text, right)
        metrics["em"].update(em)
        metrics["f1"].update(f1)
    return {"em": metrics["em"], "f1": metrics["f1"]} if pairs else {}


def count_likelihood(metrics: Any, likelihood: Likelihood) -> dict[str, Metric]:
    """Update what judges the likelihood of texts; return it."""
    if "perplexity" not in metrics:
        return {}
    metrics["perplexity"].update(likelihood)
    return {"perplexity": metrics["perplexity"]}


class Perplexity(Metric):
    """exp of the mean negative log-likelihood of all tokens of an epoch."""

    full_state_update = False
    higher_is_better = False
    nll: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, likelihood: Likelihood) -> None:
        self.nll += likelihood.nll.sum()
        self.tokens += likelihood.tokens.sum()

    def compute(self) -> Tensor:
        return (self.nll / self.tokens).exp()
