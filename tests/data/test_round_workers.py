"""Workers start once a fit, read ahead over the ends of visits, and change no batch."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import Dataset

from fedtt_lightning import FederatedRounds
from fedtt_lightning.data import BySize, ClientDataModule, LoaderOptions, Partition
from fedtt_lightning.data.round_loader import RoundLoader, batches_per_epoch
from fedtt_lightning.federation import RoundPlan, RoundPlanner, UniformSampler
from quiet_trainer import quiet_trainer
from toy import ToyModule, toy_data
from toy_run import At

SIZES = [9, 4, 13]


class Traced(Dataset[Any]):
    """Toy examples with noise from the global generators, and the process that read them."""

    def __init__(self) -> None:
        self.tensors = toy_data(sum(SIZES)).tensors
        self.read = torch.zeros(len(self.tensors[0])).share_memory_()

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int) -> Any:
        self.read[index] += 1
        noise = torch.rand(()).double() + np.random.random()
        return self.tensors[0][index] + noise, os.getpid(), self.tensors[1][index]


class Module(ToyModule):
    """Keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, Tensor]] = []
        self.pids: dict[int, set[int]] = {}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, pids, y = batch
        self.seen.append((self.current_epoch, x))
        self.pids.setdefault(self.current_epoch, set()).update(pids.tolist())
        return self.loss([x, y])


class Data(ClientDataModule):
    def __init__(self, workers: int) -> None:
        super().__init__(3, BySize(SIZES))
        self.workers = workers

    def setup(self, stage: str) -> None:
        self.train_data, self.loader = Traced(), LoaderOptions(2, num_workers=self.workers)

    def labels(self) -> np.ndarray:
        return self.train_data.tensors[1].numpy()  # type: ignore[no-any-return]  # not by reading


def fitted(
    folder: Path, workers: int, *extra: Callback, **options: Any
) -> tuple[Module, ClientDataModule]:
    torch.manual_seed(0)
    module, data = Module().double(), Data(workers)
    rounds = FederatedRounds(UniformSampler(2), local_epochs=2, seed=4)
    trainer = quiet_trainer(folder, 3, [rounds, *extra], **options)
    trainer.fit(module, datamodule=data)
    return module, data


def same(one: Module, two: Module) -> bool:
    pairs = zip(one.seen, two.seen, strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs) and all(
        torch.equal(one.net.state_dict()[name], value)
        for name, value in two.net.state_dict().items()
    )


def workers_alive() -> set[int]:
    return {process.pid or 0 for process in multiprocessing.active_children()}


@pytest.mark.parametrize("options", [{}, {"max_steps": 31}])
def test_one_start_of_workers_a_fit_and_the_same_batches(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    plain, _ = fitted(tmp_path, 0, **options)
    before = workers_alive()
    started: list[set[int]] = []
    look = At(3, lambda trainer: started.append(workers_alive() - before))
    module, _ = fitted(tmp_path, 2, look, **options)
    assert same(module, plain)
    assert plain.pids == {round: {os.getpid()} for round in plain.pids}
    assert len(started[0]) == 2
    assert len(module.pids) > 1 and all(pids == started[0] for pids in module.pids.values())
    assert workers_alive() == before, "they end with the fit"


def test_nothing_is_read_twice(tmp_path: Path) -> None:
    module, data = fitted(tmp_path, 1)
    assert data.train_data.read.sum() == sum(len(x) for _, x in module.seen)


def test_workers_end_with_a_fit_that_fails(tmp_path: Path) -> None:
    def fail(trainer: Trainer) -> None:
        raise RuntimeError("in the middle")

    before = workers_alive()
    with pytest.raises(RuntimeError, match="in the middle"):
        fitted(tmp_path, 2, At(5, fail))
    assert workers_alive() == before


def test_new_data_or_options_get_new_workers() -> None:
    data = Data(1)
    planner = RoundPlanner(3, np.array(SIZES), lambda n: -(-n // 2))
    data.plan = lambda: planner.plan(0)
    loaders, kept = [], []
    before = workers_alive()
    for change in (None, "setup", None, "loader"):
        if change == "setup":
            data.setup("fit")
        elif change == "loader":
            data.loader = replace(data.loader, batch_size=3)
        else:
            data.train_data = getattr(data, "train_data", Traced())
            data.loader = getattr(data, "loader", LoaderOptions(2, num_workers=1))
        data.federate(0)
        loaders.append(loader := data.train_dataloader())
        next(iter(loader))
        assert data.train_dataloader() is loader
        kept.append(workers_alive() - before)
    assert loaders[1] is loaders[2]
    assert kept[1] == kept[2]
    assert all(len(workers) == 1 for workers in kept)
    assert len(set().union(*kept)) == 3
    data.close_loader()
    assert workers_alive() == before


def make(workers: int) -> tuple[Callable[[int], RoundPlan], RoundLoader, Traced]:
    options, data = LoaderOptions(2, num_workers=workers), Traced()
    clients = Partition(np.arange(sum(SIZES)), np.cumsum([0, *SIZES]))
    planner = RoundPlanner(3, np.array(SIZES), lambda n: batches_per_epoch(n, options))
    return planner.plan, RoundLoader(data, clients, planner.plan(0), options), data


def test_a_round_left_in_the_middle_leaves_nothing_to_the_next() -> None:
    plan, loader, _ = make(2)
    left = iter(loader)
    for _ in range(3):
        next(left)
    loader.plan = replace(plan(1), start=2)
    found = [batch[0] for batch in loader]
    loader.close()
    _, plain, _ = make(0)
    plain.plan = replace(plan(1), start=2)
    expected = [batch[0] for batch in plain]
    assert len(found) == len(expected) == plan(1).num_batches - 2
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_visit_is_read_while_this_one_trains(workers: int) -> None:
    plan, loader, data = make(workers)
    first, second = plan(0).visits[:2]
    places = np.cumsum([0, *SIZES])
    of_second = data.read[places[second.client] : places[second.client + 1]]
    batches = iter(loader)
    for _ in range(first.num_batches - 1):
        next(batches)
    end = time.monotonic() + (60 if workers else 0)
    while not of_second.any() and time.monotonic() < end:
        time.sleep(0.01)
    assert bool(of_second.any()) == bool(workers), "before the last batch of the first visit"
    rest = list(batches)
    assert len(rest) == plan(0).num_batches - first.num_batches + 1
    assert data.read.eq(1).all()
    loader.close()
