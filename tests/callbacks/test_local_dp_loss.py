"""Losses in which one example changes the gradients of others are refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import BinaryAccuracy

from fedtt_lightning.errors import ConfigError, FederationError
from private_run import private_run
from toy import ToyModule


class Sum(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y, reduction="sum")


class TokenMean(ToyModule):
    """As of language models: each example has more or fewer terms, all of which weigh the same."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        terms = 1 + (x[:, 0] > 0)
        return (terms * cross_entropy(self.net(x), y, reduction="none")).sum() / terms.sum()


class ClassWeights(ToyModule):
    """Which torch divides by the weights of a batch."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y, weight=torch.tensor([1.0, 3.0]).to(x))


class Contrast(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        hidden = self.net(batch[0])
        return cross_entropy(hidden @ hidden.T, torch.arange(len(hidden)))


class Batchwise(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x - x.mean(0)), y)


@pytest.mark.parametrize("module", [Sum, TokenMean, ClassWeights, Contrast, Batchwise])
def test_refused(tmp_path: Path, module: type[ToyModule]) -> None:
    trainer, toy, data, _ = private_run(tmp_path, module=module)
    with pytest.raises(ConfigError, match=r"for 8 examples.*average it over them, each by itself"):
        trainer.fit(toy, datamodule=data)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


class Never(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.loss(batch)


def test_no_loss_is_refused(tmp_path: Path) -> None:
    trainer, toy, data, _ = private_run(tmp_path, module=Never)
    with pytest.raises(ConfigError, match="training_step returns no loss"):
        trainer.fit(toy, datamodule=data)


class Random(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x + 0.1 * torch.randn_like(x)), y)


def test_a_random_loss_is_not_judged(tmp_path: Path) -> None:
    trainer, toy, data, _ = private_run(tmp_path, module=Random, max_epochs=1)
    with pytest.warns(UserWarning, match="loss is random even in eval mode"):
        trainer.fit(toy, datamodule=data)
    assert trainer.current_epoch == 1


class Busy(ToyModule):
    """Logs, keeps a metric and a part in eval mode, takes no index and returns a dict."""

    def __init__(self, configure: Any) -> None:
        super().__init__(configure)
        self.accuracy = BinaryAccuracy()
        self.still = nn.Linear(2, 2).requires_grad_(False).eval()
        self.seen: list[tuple[int, bool, bool]] = []

    def training_step(self, batch: list[Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        x, y = batch
        logits = self.net(x)
        self.accuracy(logits.argmax(-1), y)
        self.log("accuracy", self.accuracy, on_epoch=True)
        loss = cross_entropy(logits, y)
        self.log_dict({"loss": loss})
        self.seen.append((len(x), self.net.training, self.still.training))
        return {"loss": loss}


def test_leaves_no_trace(tmp_path: Path) -> None:
    trainer, toy, data, _ = private_run(tmp_path, module=Busy, max_epochs=1)
    trainer.fit(toy, datamodule=data)
    seen = toy.seen  # type: ignore[attr-defined]
    assert [size for size, *_ in seen[:12]] == [1] * 8 + [8] * 2 + [2, 3]
    assert not any(training or still for _, training, still in seen[:10])
    assert all(training and not still for _, training, still in seen[10:])
    assert "log" not in vars(toy)
    # The metric has counted steps only: a whole number of their examples was right.
    right = float(trainer.callback_metrics["accuracy_epoch"]) * sum(n for n, *_ in seen[12:])
    assert right == pytest.approx(round(right), abs=1e-3)


def test_a_mean_is_taken_whatever_the_dropout(tmp_path: Path) -> None:
    class Dropping(ToyModule):
        def loss(self, batch: list[Tensor]) -> Tensor:
            x, y = batch
            return cross_entropy(self.net(nn.functional.dropout(x, 0.5, self.training)), y)

    trainer, toy, data, _ = private_run(tmp_path, module=Dropping, max_epochs=1)
    trainer.fit(toy, datamodule=data)
    assert trainer.current_epoch == 1


class Rows(ToyModule):
    """Whose table is looked up three times a batch, however many examples there are."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.table = nn.Embedding(3, 12)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x + self.table(torch.arange(3)).mean(0)), y)


def test_what_looks_right_in_a_batch_of_three_is_refused(tmp_path: Path) -> None:
    trainer, toy, data, _ = private_run(tmp_path, module=Rows)
    with pytest.raises(
        FederationError, match=r"batch's 2 examples.*table.weight has gradients of 3"
    ):
        trainer.fit(toy, datamodule=data)
    assert all(p.grad is None for p in toy.parameters())
