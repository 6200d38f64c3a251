"""A LightningModule and LightningDataModule written with no thought of federation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FEATURES = 12


class TensorTrainNet(nn.Module):
    """A frozen layer, a tensor train of five factors with a bias, dropout, and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(FEATURES, 16).requires_grad_(False)
        rank, modes = 3, (4, 4, 2, 2, 2)
        ranks = (1, *[rank] * (len(modes) - 1), 1)
        for i, mode in enumerate(modes):
            core = nn.Parameter(torch.randn(ranks[i], mode, ranks[i + 1]) * 0.6)
            self.register_parameter(f"core_{i}", core)
        self.bias = nn.Parameter(torch.zeros(8))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.core_0
        for i in range(1, 5):
            weight = torch.tensordot(weight, getattr(self, f"core_{i}"), dims=1)
        hidden = torch.tanh(self.backbone(x)) @ weight.reshape(16, 8) + self.bias
        return self.head(self.dropout(torch.tanh(hidden)))


class ToyModule(LightningModule):
    def __init__(self, configure: Callable[[list[nn.Parameter]], Any] | None = None) -> None:
        super().__init__()
        self.net = TensorTrainNet()
        self.configure = configure or (lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def loss(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", self.loss(batch), prog_bar=True)
        self.log("val_acc", (self.net(x).argmax(-1) == y).double().mean())

    def configure_optimizers(self) -> Any:
        return self.configure([p for p in self.parameters() if p.requires_grad])


def toy_data(examples: int = 61, dtype: torch.dtype = torch.float64) -> TensorDataset:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(examples, FEATURES, generator=rng, dtype=torch.float64).to(dtype)
    y = (x[:, 0] * x[:, 1] + x[:, 2] > 0).long()
    return TensorDataset(x, y)


class ToyData(LightningDataModule):
    def __init__(
        self, examples: int = 61, batch_size: int = 4, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        self.examples, self.batch_size, self.dtype = examples, batch_size, dtype

    def setup(self, stage: str) -> None:
        self.train = toy_data(self.examples, self.dtype)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=64)
