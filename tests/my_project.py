"""A project that has never heard of federation: what the documentation's examples federate."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertModel


class MyModule(LightningModule):
    def __init__(self):
        super().__init__()
        size = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
        self.encoder = BertModel(BertConfig(vocab_size=50, num_attention_heads=2, **size))
        self.head = torch.nn.Linear(64, 2)

    def training_step(self, batch, batch_idx):
        tokens, labels = batch
        hidden = self.encoder(input_ids=tokens).last_hidden_state[:, 0]
        return torch.nn.functional.cross_entropy(self.head(hidden), labels)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class MyData(LightningDataModule):
    def setup(self, stage):
        tokens = torch.randint(1, 50, (80, 8), generator=torch.Generator().manual_seed(0))
        self.data = TensorDataset(tokens, (tokens[:, 0] > 25).long())

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=40)
