"""Federates a vision transformer: adapters are not for text alone.

A small ViT learns to read digits in one place, which stands for pretraining. Then it is frozen, and
five clients, each with other shares of the digits, adapt it to their scanners, which give
negatives: by the head alone, by FedTT and by FedTT+. Nothing is downloaded.
"""

import copy
import sys
from statistics import mean, stdev

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from peft import get_peft_model
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset, TensorDataset, random_split
from transformers import ViTConfig, ViTForImageClassification

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds, TTAdapterConfig
from fedtt_lightning.callbacks import Communication
from fedtt_lightning.data import Dirichlet
from fedtt_lightning.federation import RotatingFactor

SIZE = ViTConfig(
    image_size=8, patch_size=4, num_channels=1, num_labels=10, hidden_size=64,
    num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
)  # fmt: skip
# Where adapters go is known of families of language models; here the layers that end a block's
# attention and its MLP are named.
ADAPTERS = TTAdapterConfig(rank=4, bottleneck=32, target_modules=["attention.o_proj", "mlp.fc2"])


class Vision(LightningModule):
    def __init__(self, vit: nn.Module, lr: float) -> None:
        super().__init__()
        self.vit, self.lr = vit, lr

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        pixels, labels = batch
        return self.vit(pixel_values=pixels, labels=labels).loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        pixels, labels = batch
        right = self.vit(pixel_values=pixels).logits.argmax(dim=1) == labels
        self.log("val_acc", right.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=self.lr)


def digits(negative: bool) -> LightningDataModule:
    """Return scikit-learn's 1,797 images with their labels, 7 of 10 for training."""
    pixels, labels = map(torch.tensor, load_digits(return_X_y=True))
    images = pixels.float().reshape(-1, 1, 8, 8) / 16
    data: Dataset = TensorDataset(1 - images if negative else images, labels)
    parts = random_split(data, [0.7, 0.3], torch.Generator().manual_seed(0))
    return LightningDataModule.from_datasets(*parts, batch_size=32)


def fit(model: Vision, data: LightningDataModule, epochs: int, *callbacks: object) -> dict:
    """Train, and return the metrics of the end."""
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **quiet)
    trainer.fit(model, datamodule=data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def federate(pretrained: nn.Module, method: str, seed: int, rounds: int) -> tuple[float, float]:
    """Return the accuracy on negatives after some rounds, and the KiB of an upload."""
    seed_everything(seed, verbose=False)
    vit = copy.deepcopy(pretrained).requires_grad_(False)
    if method == "head alone":
        vit.classifier.requires_grad_(True)
    else:
        # Trains the head, too; a copy, for PEFT writes what it has found into a configuration.
        vit = get_peft_model(vit, copy.deepcopy(ADAPTERS))
    data = FederatedDataModule(digits(negative=True), clients=5, partition=Dirichlet(alpha=1.0))
    plus = [FactorFreezing(RotatingFactor())] if method == "FedTT+" else []
    federation = FederatedRounds(local_epochs=2, cohort_batch=5, seed=seed)  # 5 side by side
    metrics = fit(Vision(vit, 1e-2), data, rounds, federation, Communication(), *plus)
    return metrics["val_acc"], metrics["comm/upload_bytes_total"] / (5 * rounds) / 1024


def main(epochs: int = 20, rounds: int = 8, seeds: int = 1) -> None:
    seed_everything(0, verbose=False)
    model = Vision(ViTForImageClassification(SIZE), 2e-3)
    lines = [f"pretrained: {fit(model, digits(negative=False), epochs)['val_acc']:.3f}"]
    for method in ("head alone", "FedTT", "FedTT+"):
        runs = [federate(model.vit, method, seed, rounds) for seed in range(seeds)]
        scores, sizes = zip(*runs, strict=True)
        spread = f" ± {stdev(scores):.3f}" if seeds > 1 else ""
        lines.append(f"{method:10}  {mean(scores):.3f}{spread}  {sizes[0]:.1f} KiB an upload")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main(seeds=int(sys.argv[1]) if len(sys.argv) > 1 else 1)
