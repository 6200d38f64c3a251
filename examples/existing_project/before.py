"""Reads handwritten digits with a small network."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Digits(LightningDataModule):
    def setup(self, stage):
        pixels, labels = load_digits(return_X_y=True)  # 1,797 images that come with scikit-learn
        data = TensorDataset(torch.tensor(pixels / 16).float(), torch.tensor(labels))
        self.train, self.val = random_split(data, [0.7, 0.3], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=256)


class Reader(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        pixels, labels = batch
        return nn.functional.cross_entropy(self.net(pixels), labels)

    def validation_step(self, batch, batch_idx):
        pixels, labels = batch
        right = self.net(pixels).argmax(dim=1) == labels
        self.log("val_acc", right.float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    seed_everything(0)
    data = Digits()
    trainer = Trainer(
        max_epochs=10,
        accelerator="cpu",
        default_root_dir="runs/digits",
    )
    trainer.fit(Reader(), datamodule=data)
    print(f"val_acc {trainer.callback_metrics['val_acc']:.3f}")
