"""A federated round: clients one after another and side by side, against a bare PyTorch loop.

    python benchmarks/federated_round.py

100 clients with 32 texts of 64 tokens each, 10 of them a round, one local epoch, AdamW; an encoder
of 2 layers × 128 with random weights and TT adapters of rank 5. The library's rounds are those of
`Trainer.fit` with FederatedRounds, from an epoch's start to its end; the bare loop trains the same
clients on the same batches without any of it. First it is checked that all of them end with the
same adapter.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

from timing import Row, main, ratio

CLIENTS, EXAMPLES, COHORT, TOKENS = 100, 32, 10, 64
ROUNDS, WARM_UP = 6, 1
SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
BATCHES = (4, 8)
SIDE_BY_SIDE = 10


def data(batch: int) -> Any:
    """Return a datamodule of random texts, divided evenly."""
    import torch
    from encoders import VOCABULARY
    from torch.utils.data import TensorDataset

    from fedtt_lightning.data import ClientDataModule, LoaderOptions

    class Texts(ClientDataModule):
        def setup(self, stage: str) -> None:
            drawn = torch.Generator().manual_seed(1)
            ids = torch.randint(0, VOCABULARY, (CLIENTS * EXAMPLES, TOKENS), generator=drawn)
            labels = torch.randint(0, 2, (len(ids),), generator=drawn)
            self.train_data, self.loader = TensorDataset(ids, labels), LoaderOptions(batch)

        def labels(self) -> Any:
            return self.train_data.tensors[1].numpy()

    return Texts(CLIENTS)


def module() -> Any:
    """Return a LightningModule around the encoder with its adapters."""
    import torch
    from encoders import fedtt
    from lightning.pytorch import LightningModule

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = fedtt(SIZE)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return loss(self.model, *batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(trained(self.model).values(), lr=1e-3, fused=True)

    return Classifier()


def loss(model: Any, ids: Any, labels: Any) -> Any:
    import torch

    return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss


def trained(model: Any) -> dict[str, Any]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def federated(batch: int, cohort_batch: int) -> tuple[float, dict[str, Any]]:
    """Return CPU seconds of a round by `Trainer.fit`, the median of a run, and the adapter."""
    from lightning.pytorch import Callback, Trainer

    from fedtt_lightning import FederatedRounds
    from fedtt_lightning.federation import UniformSampler

    seconds: list[float] = []

    class Watch(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            seconds.append(-time.process_time())

        def on_train_epoch_end(self, *_: Any) -> None:
            seconds[-1] += time.process_time()

    made = module()
    rounds = FederatedRounds(UniformSampler(COHORT), cohort_batch=cohort_batch, seed=0)
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=ROUNDS,
            accelerator="cpu",
            callbacks=[Watch(), rounds],
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with redirect_stdout(StringIO()):  # the table of clients
            trainer.fit(made, data(batch))
    return statistics.median(seconds[WARM_UP:]), trained(made.model)


def bare(batch: int) -> tuple[float, dict[str, Any]]:
    """Return CPU seconds of a round by a plain loop, the median of a run, and the adapter."""
    import numpy as np
    import torch
    from encoders import fedtt

    from fedtt_lightning.federation import generator_for, seed_for

    texts = data(batch)
    texts.setup("fit")
    texts.federate(0)
    ids, labels = texts.train_data.tensors
    model = fedtt(SIZE)
    params = trained(model)
    seconds = []
    for round in range(ROUNDS):
        start = time.process_time()
        old = {name: p.detach().clone() for name, p in params.items()}
        total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in params.items()}
        chosen = generator_for(0, "cohort", round).choice(CLIENTS, COHORT, replace=False)
        for client in sorted(chosen.tolist()):
            with torch.no_grad():
                for name, p in params.items():
                    p.copy_(old[name])
            optimizer = torch.optim.AdamW(params.values(), lr=1e-3, fused=True)
            seed = seed_for(0, "visit", round, client)
            order = generator_for(seed, "order", 0).permutation(texts.clients[client])
            for rows in np.split(order, range(batch, len(order), batch)):
                optimizer.zero_grad()
                chunk = torch.from_numpy(rows)
                loss(model, ids[chunk], labels[chunk]).backward()
                optimizer.step()
            for name, p in params.items():
                total[name] += p.detach().double() - old[name]
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(old[name] + total[name] / COHORT)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[WARM_UP:]), params


def measure(repeats: int) -> list[Row]:
    import torch

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rows = []
    for batch in BATCHES:
        cases: dict[str, Callable[[], tuple[float, dict[str, Any]]]] = {
            "bare": lambda batch=batch: bare(batch),
            "one": lambda batch=batch: federated(batch, 1),
            "side": lambda batch=batch: federated(batch, SIDE_BY_SIDE),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        adapters = {}
        for _ in range(repeats):
            for name, case in cases.items():
                seconds, adapters[name] = case()
                times[name].append(seconds)
        for name in ("one", "side"):
            for a, b in zip(adapters[name].values(), adapters["bare"].values(), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
        size = f"batches of {batch} × {TOKENS}"
        what = f"federated round of {COHORT} clients × {EXAMPLES}, 2 layers × 128, FedTT r=5"
        apart, together = f"{what}, one after another", f"{what}, {SIDE_BY_SIDE} side by side"
        rows.append(ratio(times, "one", "bare", apart, f"bare loop, {size}", 1.05))
        rows.append(ratio(times, "side", "bare", together, f"bare loop, {size}", 0.70))
        rows.append(ratio(times, "side", "one", together, f"one after another, {size}"))
    return rows


if __name__ == "__main__":
    main(__doc__, measure, repeats=5)
