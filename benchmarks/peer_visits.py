"""The clients and batches of federated_round.py's bare loop, for peers that train the same."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any

from federated_round import CLIENTS, COHORT, ROUNDS, WARM_UP, data


def cohort(round: int) -> list[int]:
    """Return the clients that the bare loop trains in a round."""
    from fedtt_lightning.federation import generator_for

    return sorted(generator_for(0, "cohort", round).choice(CLIENTS, COHORT, replace=False).tolist())


def visit(texts: Any, round: int, client: int) -> tuple[Any, Any]:
    """Return a client's token ids and labels in the bare loop's order."""
    from fedtt_lightning.federation import generator_for, seed_for

    seed = seed_for(0, "visit", round, client)
    order = generator_for(seed, "order", 0).permutation(texts.clients[client])
    ids, labels = texts.train_data.tensors
    return ids[order], labels[order]


def prepared(batch: int) -> Any:
    """Return the datamodule with its clients made, as a fit would do it."""
    texts = data(batch)
    texts.setup("fit")
    texts.federate(0)
    return texts


def cpu_seconds() -> float:
    """Return CPU seconds of this process and all below it, ended ones included."""
    import psutil

    seconds = time.process_time() + sum(os.times()[2:4])
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended, and counts to its parent
            seconds += sum(process.cpu_times()[:4])
    return seconds


def per_round(marks: list[float]) -> float:
    """Return the median of a run's rounds, from the CPU seconds before them and after each."""
    rounds = [after - before for before, after in pairwise(marks)]
    assert len(rounds) == ROUNDS
    return statistics.median(rounds[WARM_UP:])
