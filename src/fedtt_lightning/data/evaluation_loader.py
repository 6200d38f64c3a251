"""Batches of given examples, read the same way every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from fedtt_lightning.data.round_loader import _Reading, _SeededReads
from fedtt_lightning.federation.seeds import seed_for

if TYPE_CHECKING:
    from fedtt_lightning.data.client_data import LoaderOptions


def evaluation_loader(
    dataset: Dataset[Any], batches: Sequence[np.ndarray], options: LoaderOptions, seed: int
) -> DataLoader[Any]:
    """Return a loader of batches whose indices are given, read as the rounds' batches are.

    The global generators are seeded before a batch is read, by `seed` and the batch's first index,
    so that a dataset which draws gives the same examples in every evaluation.
    """
    readings = [[_Reading(b.tolist(), seed_for(seed, "evaluation", int(b[0])))] for b in batches]
    return DataLoader(
        _SeededReads(dataset),
        batch_sampler=readings,
        collate_fn=options.collate_fn,
        num_workers=options.num_workers,
        pin_memory=options.pin_memory,
        worker_init_fn=options.worker_init_fn,
    )
