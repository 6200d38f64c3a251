"""Runs that would train without privacy, or spend more of it than is counted, end in an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import SGD

from fedtt_lightning.callbacks import LocalDP
from fedtt_lightning.errors import ConfigError, FederationError
from private_run import local_dp, private_run
from toy import ToyModule
from toy_run import At

WITHOUT = r"SGD|AdamW is about to step without privacy.*has replaced the optimizer"
STEPS = r"took \d+ private steps instead of \d+ in round 1"
WRITTEN = "changed by something other than a private step"


def raw(trainer: Trainer) -> Any:
    return trainer.optimizers[0].original_optimizer  # type: ignore[attr-defined]


def unwrap(trainer: Trainer) -> None:
    trainer.optimizers = [raw(trainer)]


class AtStart(Callback):
    def __init__(self, action: Callable[[Trainer], None]) -> None:
        self.action = action

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.action(trainer)


class TrainsItself(Callback):
    """Takes gradients of its own from each batch and writes to the weights."""

    def __init__(self, start: bool) -> None:
        self.start = start

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, _: int) -> None:
        if self.start:
            gradient = torch.autograd.grad(module.loss(batch), module.net.core_1)[0]
            module.net.core_1.data -= 1e-3 * gradient

    def on_before_zero_grad(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        if not self.start and trainer.fit_loop.total_batch_idx == 5:
            with torch.no_grad():
                module.net.head.bias += 1e-12


def longer(trainer: Trainer) -> None:
    trainer.fit_loop.max_epochs = 5


CALLBACKS: dict[str, tuple[Callback, str]] = {
    "optimizer replaced at the start": (AtStart(unwrap), WITHOUT),
    "optimizer replaced inside a visit": (At(5, unwrap), WITHOUT),
    "stepped before any visit": (AtStart(lambda t: t.optimizers[0].step()), "not announced"),
    "stepped between batches": (At(5, lambda t: t.optimizers[0].step()), "not announced"),
    "stepped by Lightning's wrapper": (
        At(5, lambda t: t.lightning_module.optimizers().step()),  # type: ignore[union-attr]
        "net.core_0 has none",
    ),
    "weights written before the first step": (TrainsItself(start=True), WRITTEN),
    "weights written between steps": (TrainsItself(start=False), WRITTEN),
    "more rounds than planned": (AtStart(longer), "in round 4, for which its noise was not"),
}


@pytest.mark.parametrize(("callback", "message"), CALLBACKS.values(), ids=CALLBACKS.keys())
def test_callbacks_that_go_around_it(tmp_path: Path, callback: Callback, message: str) -> None:
    trainer, module, data, _ = private_run(tmp_path, callback)
    with pytest.raises(FederationError, match=message):
        trainer.fit(module, datamodule=data)


class StepsInside(ToyModule):
    def optimizer_step(self, epoch: int, batch: int, optimizer: Any, closure: Any = None) -> None:
        optimizer.optimizer.original_optimizer.step(closure)


class StepsByHand(ToyModule):
    def optimizer_step(self, epoch: int, batch: int, optimizer: Any, closure: Any = None) -> None:
        closure()
        with torch.no_grad():
            for parameter in self.net.head.parameters():
                parameter -= 0.1 * parameter.grad  # type: ignore[operator]


class StepsTwice(ToyModule):
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        super().optimizer_step(*args, **kwargs)


class SkipsSteps(ToyModule):
    def optimizer_step(self, epoch: int, batch: int, optimizer: Any, closure: Any = None) -> None:
        optimizer.step(closure=closure) if batch % 2 else closure()


class StepsOnItsOwn(ToyModule):
    """Adds an optimizer that Lightning knows nothing of, and uses it at a visit's last batch."""

    def optimizer_step(self, epoch: int, batch: int, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(epoch, batch, *args, **kwargs)
        if batch == 3:
            SGD(self.net.head.parameters(), lr=0.1).step()


class ZeroesNothing(ToyModule):
    def optimizer_zero_grad(self, *_: Any) -> None:
        pass


class TwoPasses(ToyModule):
    """Lightning clears the gradients of the first."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.loss(batch).backward()
        return self.loss(batch)


class AddsPasses(TwoPasses, ZeroesNothing):
    pass


class ReturnsNone(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.loss(batch) if batch_idx != 2 else None


class UnusedPass(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.loss(batch)
        return self.loss(batch)


class DropsExamples(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        kept = max(len(batch[0]) - self.training, 1)
        return self.loss([tensor[:kept] for tensor in batch])


MODULES: dict[type[ToyModule], str] = {
    StepsInside: STEPS,
    StepsByHand: STEPS,
    StepsTwice: STEPS,
    SkipsSteps: STEPS,
    StepsOnItsOwn: WRITTEN,
    ReturnsNone: "net.core_0 has none",
    AddsPasses: "net.core_0 has those of several backward passes",
    UnusedPass: "net.core_0 has none",
    DropsExamples: r"lack the gradient of each of the batch's \d+ examples.*has gradients of \d",
}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_modules_that_go_around_it(tmp_path: Path, module: type[ToyModule]) -> None:
    trainer, toy, data, _ = private_run(tmp_path, module=module, plus=False)
    with pytest.raises(FederationError, match=MODULES[module]):
        trainer.fit(toy, datamodule=data)


class ClipsItself(ToyModule):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.clip_gradients(optimizer, 1e-4, "norm")


class LooksTwice(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.loss(batch)
        return self.loss(batch)


def weights(tmp_path: Path, *extra: Any, **options: Any) -> dict[str, Tensor]:
    trainer, module, data, _ = private_run(tmp_path, *extra, **options)
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == trainer.max_epochs
    return dict(module.named_parameters())


@pytest.mark.parametrize("module", [ZeroesNothing, ClipsItself, LooksTwice, TwoPasses])
def test_modules_that_change_nothing(tmp_path: Path, module: type[ToyModule]) -> None:
    """The plain gradient, whatever happens to it, has no part in a private step."""
    usual = weights(tmp_path / "usual", max_epochs=1)
    other = weights(tmp_path / "other", max_epochs=1, module=module)
    assert all(torch.equal(usual[name], other[name]) for name in usual)


STOPPED: dict[str, dict[str, Any]] = {
    "max_steps": {"max_steps": 9},
    "limit_train_batches": {"limit_train_batches": 5},
    "overfit_batches": {"overfit_batches": 3},
    "fast_dev_run": {"fast_dev_run": 2},
}


@pytest.mark.parametrize("options", STOPPED.values(), ids=STOPPED.keys())
def test_short_runs_count_each_private_step(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer, module, data, _ = private_run(tmp_path, **options)
    trainer.fit(module, datamodule=data)
    ledger = local_dp(trainer).ledger
    histories = [entry for client in range(4) for entry in ledger.history(client)]
    assert 0 < sum(steps for _, _, steps in histories) == trainer.global_step
    for client in range(4):
        batches = -(-len(data.clients[client]) // 4)
        assert all(entry[:2] == (0.7, 1 / batches) for entry in ledger.history(client))


class Renamed(LocalDP):
    """Whose state is not found in a checkpoint of LocalDP."""


OTHER_PLANS: dict[str, dict[str, Any]] = {
    "local_epochs": {"federation": {"local_epochs": 3}},
    "sampler": {"federation": {"sampler": None}},
    "another class": {"dp": Renamed(noise_multiplier=0.7)},
}


@pytest.mark.parametrize("other", OTHER_PLANS.values(), ids=OTHER_PLANS.keys())
def test_an_account_of_another_plan_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    """At a round's end, where the federation itself can go on with other settings."""
    weights(tmp_path, max_epochs=1)
    trainer, module, data, _ = private_run(tmp_path, **other)
    with pytest.raises(ConfigError, match=r"account of client \d has .* but this run's plan"):
        trainer.fit(module, datamodule=data, ckpt_path="last")


def test_more_rounds_at_given_noise_go_on_with_the_account(tmp_path: Path) -> None:
    weights(tmp_path, max_epochs=1)
    trainer, module, data, _ = private_run(tmp_path, max_epochs=2)
    trainer.fit(module, datamodule=data, ckpt_path="last")
    whole, other, data, _ = private_run(tmp_path / "whole", max_epochs=2)
    whole.fit(other, datamodule=data)
    assert local_dp(trainer).ledger.state_dict() == local_dp(whole).ledger.state_dict()
    assert torch.equal(module.net.core_0, other.net.core_0)
