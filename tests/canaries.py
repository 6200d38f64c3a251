"""Canaries in federated runs on the built-in data, and those who look for them.

An example's coin decides whether its loss counts, a client's whether its update is zero, so that
sizes, which are public, tell nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from fedtt_lightning import SequenceClassifier
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.data import ByColumn
from fedtt_lightning.data.builtin import encode
from fedtt_lightning.data.builtin_text import SPECIAL_TOKENS, vocabulary
from fedtt_lightning.data.client_data import ClientDataModule, LoaderOptions
from fedtt_lightning.data.collate import PadBatch
from fedtt_lightning.federation import AdapterState, Visit, generator_for
from fedtt_lightning.federation.aggregation.flat import flatten, unflatten
from fedtt_lightning.privacy.per_example import PerExampleGradients

_PAD = PadBatch({"input_ids": SPECIAL_TOKENS.index("[PAD]"), "attention_mask": 0})


def flip_coins(canaries: int) -> np.ndarray:
    return generator_for(0, "coins").integers(0, 2, canaries)


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    present = torch.tensor([float(example["present"]) for example in examples])
    return {**_PAD(examples), "present": present}


class CanaryTexts(ClientDataModule):
    """Texts that say a word over and over, in each client no two with the same word or label.

    So their gradients point in directions that differ, even where the adapter is fresh.
    """

    def __init__(self, clients: int, coins: np.ndarray, batch_size: int) -> None:
        super().__init__(clients, ByColumn("client"))
        words = vocabulary()[len(SPECIAL_TOKENS) :]
        self.batch_size = batch_size
        self.examples = [
            {
                **encode(" ".join([words[number // clients]] * 12)),
                "label": number // clients,
                "client": number % clients,
                "present": int(coin),
            }
            for number, coin in enumerate(coins)
        ]

    def setup(self, stage: str) -> None:
        self.train_data = self.examples
        self.loader = LoaderOptions(self.batch_size, collate)


class CanaryClassifier(SequenceClassifier):
    """A classifier trained by SGD, in which absent examples have a loss of zero."""

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        return cross_entropy(self(**inputs), batch["labels"], reduction="none") * batch["present"]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.losses(batch).mean()

    def configure_optimizers(self) -> Optimizer:
        return SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)

    def gradients(self, examples: Sequence[dict[str, Any]], state: AdapterState) -> Tensor:
        """Return each example's gradient where the tensors are `state`, (examples, values)."""
        tensors = {n: p for n, p in self.named_parameters() if p.requires_grad}
        state.copy_into(tensors)
        hooks = PerExampleGradients(self)
        self.losses(collate([{**example, "present": 1} for example in examples])).sum().backward()
        rows = [tensors[name].grad_sample.flatten(1) for name in state.schema.names]
        hooks.detach()
        self.zero_grad()
        return torch.cat(rows, dim=1)


class Uploads(Callback):
    """The server under local privacy: it knows what it sent to a client and what came back."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, AdapterState, AdapterState]] = []

    def on_client_update(
        self, trainer: Trainer, module: LightningModule, visit: Visit, update: AdapterState
    ) -> None:
        sent = find_federation(trainer).loop.adapter.clone()
        self.seen.append((visit.client, sent, update.clone()))


class CanaryClients(Callback):
    """The first clients upload directions of their own, far too long, or zero; and are watched.

    As in Andrew et al., arXiv 2302.03098. `seen` is how far the released adapter has moved in all.
    """

    def __init__(self, coins: np.ndarray, values: int, length: float) -> None:
        self.coins = coins
        directions = generator_for(0, "canary clients").standard_normal((len(coins), values))
        self.directions = torch.nn.functional.normalize(torch.from_numpy(directions))
        self.length = length
        self.seen = torch.zeros(values, dtype=torch.float64)

    def on_client_update(
        self, trainer: Trainer, module: LightningModule, visit: Visit, update: AdapterState
    ) -> AdapterState | None:
        if visit.client >= len(self.coins):
            return None
        length = self.length * float(self.coins[visit.client])
        return unflatten(self.directions[visit.client] * length, update.schema)

    def on_aggregate(
        self, trainer: Trainer, module: LightningModule, old: AdapterState, new: AdapterState
    ) -> None:
        self.seen += flatten(new.minus(old))
