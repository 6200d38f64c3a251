"""A tiny BERT with any PEFT method, trained privately by three clients, and its reference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from fedtt_lightning import FederatedDataModule, FederatedRounds
from fedtt_lightning.callbacks import LocalDP
from fedtt_lightning.data import BySize
from quiet_trainer import quiet_trainer
from tiny_models import classifier
from toy import ToyData, ToyModule

ROUNDS = 3


class Logits(nn.Module):
    """A classifier of tokens (B, T), in train mode without dropout."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens).logits


class Texts(ToyData):
    """Texts of the first class hold three words, those of the second three others."""

    def setup(self, stage: str) -> None:
        rng = torch.Generator().manual_seed(1)
        labels = torch.randint(0, 2, (45,), generator=rng)
        tokens = torch.randint(3, 6, (45, 7), generator=rng) + 28 * labels[:, None]
        self.train = TensorDataset(tokens, labels)


class PrivateText:
    """The module, what it was at the start, its data and its trainer, after `fit`."""

    def __init__(
        self,
        folder: Path,
        config: PeftConfig,
        *extra: Callback,
        batch_size: int = 5,
        configure: Callable[[Any], Any] = lambda p: torch.optim.AdamW(p, lr=0.01),
        dtype: torch.dtype = torch.float64,
        dp: dict[str, Any] | None = None,
        rounds: int = ROUNDS,
        federation: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        base = classifier("bert")
        self.base = copy.deepcopy(base)
        self.module = ToyModule(configure)
        self.module.net = Logits(get_peft_model(base, config)).to(dtype).train()  # type: ignore[assignment,arg-type]
        self.before = copy.deepcopy(self.module.net)
        self.data = FederatedDataModule(
            Texts(batch_size=batch_size), clients=3, partition=BySize([1, 2, 2])
        )
        visits = FederatedRounds(seed=11, local_epochs=2, **(federation or {}))
        callbacks = [visits, *([] if dp is None else [LocalDP(**dp)]), *extra]
        self.trainer: Trainer = quiet_trainer(folder, rounds, callbacks, **options)

    def fit(self) -> PrivateText:
        self.trainer.fit(self.module, datamodule=self.data)
        return self

    def plain(self, federation: Any, **options: Any) -> dict[str, Tensor]:
        """Train what it was at the start by a plain federation."""
        tokens, labels = self.data.inner.train.tensors  # type: ignore[attr-defined]
        reference = federation(
            experiment=11,
            clients=[self.data.clients[i] for i in range(3)],
            rounds=ROUNDS,
            batch_size=self.data.loader.batch_size,
            configure=self.module.configure,
            local_epochs=2,
            **options,
        )
        return reference.run(  # type: ignore[no-any-return]
            self.before, lambda net, batch: cross_entropy(net(tokens[batch]), labels[batch])
        )

    def logits(self) -> Tensor:
        """Return those of all texts."""
        self.module.eval()
        with torch.no_grad():
            return self.module.net(self.data.inner.train.tensors[0])  # type: ignore[attr-defined,no-any-return]
