"""What clients side by side cannot work with is refused, before training or at its first step."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, default_collate

from fedtt_lightning import FederatedDataModule, FederatedRounds
from fedtt_lightning.callbacks import FedProx, LocalDP, Personalization, Scaffold
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import RankList
from quiet_trainer import quiet_trainer
from toy import FEATURES, ToyData, ToyModule


class Steps(ToyModule):
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)


class Clips(ToyModule):
    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        pass


class Manual(ToyModule):
    automatic_optimization = False


class Recomputes(ToyModule):
    def __init__(self) -> None:
        super().__init__()
        self.net.gradient_checkpointing = True  # type: ignore[assignment]


class Norms(Callback):
    def on_after_backward(self, *_: Any) -> None:
        pass


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "number": ({"cohort_batch": 0}, r"federation.cohort_batch is 0"),
    "ranks": ({"ranks": RankList([1, 2])}, r"federation.ranks needs federation.cohort_batch 1"),
    "FedProx": ({"callbacks": [FedProx()]}, r"FedProx.*gradients"),
    "Scaffold": ({"callbacks": [Scaffold()]}, r"Scaffold.*gradients"),
    "Personalization": ({"callbacks": [Personalization(["head"])]}, r"Personalization keeps"),
    "LocalDP": ({"callbacks": [LocalDP(epsilon=3.0)]}, r"LocalDP.*on_before_optimizer_step"),
    "own callback": ({"callbacks": [Norms()]}, r"Norms.*on_after_backward"),
    "accumulation": ({"accumulate_grad_batches": 2}, r"trainer.accumulate_grad_batches is 2"),
    "strategy": ({"strategy": "ddp"}, r"trainer.strategy DDPStrategy"),
    "step": ({"module": Steps()}, r"Steps.optimizer_step"),
    "clipping": ({"module": Clips()}, r"Clips.configure_gradient_clipping"),
    "manual": ({"module": Manual()}, r"Manual.automatic_optimization"),
    "checkpointing": ({"module": Recomputes()}, r"net recomputes activations"),
    "LBFGS": ({"module": ToyModule(lambda p: torch.optim.LBFGS(p))}, r"LBFGS.*cohort_batch"),
}


def fit(
    folder: Path,
    module: nn.Module | None = None,
    callbacks: list[Callback] | None = None,
    data: Any = None,
    cohort_batch: int = 2,
    ranks: Any = None,
    **options: Any,
) -> None:
    rounds = FederatedRounds(cohort_batch=cohort_batch, ranks=ranks)
    trainer = quiet_trainer(folder, 1, [rounds, *(callbacks or [])], **options)
    made: Any = (module or ToyModule()).double()
    trainer.fit(made, FederatedDataModule(data or ToyData(), clients=3))


@pytest.mark.parametrize(("options", "message"), SETTINGS.values(), ids=SETTINGS.keys())
def test_refused_in_setup(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path, **options)


def test_one_after_another_takes_them_all(tmp_path: Path) -> None:
    for case in ("FedProx", "own callback", "accumulation", "step", "clipping"):
        fit(tmp_path, **{**SETTINGS[case][0], "cohort_batch": 1})


class Summed(ToyModule):
    def loss(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y, reduction="sum")


class Weighted(ToyModule):
    def loss(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y, weight=torch.tensor([1.0, 3.0], dtype=x.dtype))


class Contrasts(ToyModule):
    def loss(self, batch: list[Tensor]) -> Tensor:
        logits = self.net(batch[0])
        return cross_entropy(logits @ logits.T, torch.arange(len(logits)))


class Penalized(ToyModule):
    def loss(self, batch: list[Tensor]) -> Tensor:
        return super().loss(batch) + self.net.head.weight.square().sum()


class Mixes(ToyModule):
    def loss(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return super().loss([x + torch.randn_like(x), y])


class Flips(ToyModule):
    def loss(self, batch: list[Tensor]) -> Tensor:
        return super().loss([batch[0] * random.random(), batch[1]])


class Silent(ToyModule):
    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        return None


class LaterMixes(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if batch_idx == 2:
            torch.rand(1)
        return self.loss(batch)


class Couples(ToyModule):
    """The loss is a mean over examples in eval mode, and in train mode compares them."""

    def loss(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return super().loss([x - x.mean(0) if self.training else x, y])


MODULES: dict[str, tuple[type[ToyModule], str]] = {
    "examples": (Couples, r"client 0 has another gradient.*each computed by itself"),
    "penalty": (Penalized, r"net.head.weight and 0 other tensors are used outside"),
    "noise": (Mixes, r"draws random numbers other than by dropout"),
    "Python's generator": (Flips, r"draws random numbers other than by dropout"),
    "later": (LaterMixes, r"draws random numbers other than by dropout"),
}


@pytest.mark.parametrize(("module", "message"), MODULES.values(), ids=MODULES.keys())
def test_refused_when_training_starts(
    module: type[ToyModule], message: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = module()
    with pytest.raises(FederationError, match=f"{message}.*federation.cohort_batch"):
        fit(tmp_path, made)
    assert all("forward" not in part.__dict__ for part in made.modules())
    assert "log" not in made.__dict__


@pytest.mark.parametrize("module", [Summed, Weighted, Contrasts, Silent])
def test_a_loss_that_is_no_mean_over_examples(module: type[ToyModule], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training_step.*but federation.cohort_batch > 1 needs"):
        fit(tmp_path, module())


def test_batches_changed_at_random_when_collated(tmp_path: Path) -> None:
    def collate(examples: list[Any]) -> Any:
        x, y = default_collate(examples)
        return [x * (torch.rand(len(x), FEATURES) > 0.5), y]

    class Masked(ToyData):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.train, batch_size=4, shuffle=True, collate_fn=collate)

    with pytest.raises(FederationError, match=r"random changes in the collate function"):
        fit(tmp_path, data=Masked())
