"""The batches of a visit and their seeds, for plain references of client-side algorithms."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch

from fedtt_lightning.federation import seed_for
from plain_federation import PlainFederation


def windows(plain: PlainFederation, round: int, client: int) -> Iterator[list[list[int]]]:
    """Yield the batches of each optimizer step, which may be several if gradients accumulate.

    Whoever trains on a batch must call `seed_batch` right before.
    """
    seed = seed_for(plain.experiment, "visit", round, client)
    for epoch in range(plain.local_epochs):
        rng = np.random.default_rng(seed_for(seed, "order", epoch))
        order = rng.permutation(plain.clients[client]).tolist()
        size = plain.batch_size
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        for i in range(0, len(batches), plain.accumulate):
            yield batches[i : i + plain.accumulate]


def seed_batch(plain: PlainFederation, round: int, client: int, step: int) -> None:
    key = seed_for(seed_for(plain.experiment, "visit", round, client), "step 0", step)
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.manual_seed(key)
