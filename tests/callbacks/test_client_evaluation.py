"""Evaluation by client: against plain code, beside an untouched training, and refused."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from fedtt_lightning import FederatedDataModule
from fedtt_lightning.callbacks import ClientEvaluation, Personalization
from fedtt_lightning.callbacks.client_evaluation import worst_decile
from fedtt_lightning.data import BySize
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import AdapterState, RankList, TTRounding
from toy import ToyData, ToyModule, toy_data
from toy_run import Record, clients_files, make_run, one_cycle


class Scored(ToyModule):
    """The toy, scored by the log-probability of what is right."""

    def score(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return -torch.nn.functional.cross_entropy(self.net(x), y, reduction="none")


class GlobalModels(Callback):
    """Keeps the model of each round's end."""

    def __init__(self) -> None:
        self.nets: list[Any] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.nets.append(copy.deepcopy(pl_module.net).eval())


def run(
    folder: Path, *extra: Callback, holdout: float = 0.3, **options: Any
) -> tuple[Scored, FederatedDataModule, Record]:
    trainer, _, _, record = make_run(folder, *extra, **options)
    torch.manual_seed(3)
    module = Scored(one_cycle).double()
    sizes = BySize([1, 2, 3, 5])
    data = FederatedDataModule(ToyData(), clients=4, partition=sizes, client_holdout=holdout)
    trainer.fit(module, datamodule=data)
    return module, data, record


def plain_scores(net: Any, data: FederatedDataModule, clients: Any = range(4)) -> np.ndarray:
    x, y = toy_data().tensors
    means = []
    for client in clients:
        assert data.held_out is not None
        index = torch.from_numpy(data.held_out[client])
        log_p = net(x[index]).log_softmax(-1).detach()
        means.append(float(log_p[torch.arange(len(index)), y[index]].mean()))
    return np.array(means)


def personal(net: Any, own: dict[str, Tensor] | None) -> Any:
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, value in (own or {}).items():
            net.get_parameter(name.removeprefix("net.")).copy_(value)
    return net


def check(metrics: dict[str, float], kind: str, scores: np.ndarray) -> None:
    assert metrics[f"client/{kind}_mean"] == pytest.approx(scores.mean(), rel=1e-12)
    assert metrics[f"client/{kind}_worst_decile"] == pytest.approx(scores.min(), rel=1e-12)


@pytest.mark.parametrize("batch_size", [None, 3, 100])
def test_global_scores(batch_size: int | None, tmp_path: Path) -> None:
    models = GlobalModels()
    evaluation = ClientEvaluation(batch_size=batch_size)
    _, data, record = run(tmp_path, evaluation, models)
    for round in range(3):
        check(record.rounds[round], "global", plain_scores(models.nets[round], data))
        assert "client/personal_mean" not in record.rounds[round]
    rows = list(csv.reader((tmp_path / "clients.csv").open()))
    assert rows[0] == ["client", "examples", "global"]
    assert data.held_out is not None
    assert [row[:2] for row in rows[1:]] == [
        [str(client), str(size)] for client, size in enumerate(data.held_out.sizes)
    ]
    expected = plain_scores(models.nets[2], data)
    np.testing.assert_allclose([float(row[2]) for row in rows[1:]], expected, rtol=1e-12)


@pytest.mark.parametrize("ranks", [False, True], ids=["one rank", "ranks"])
def test_personal_scores(ranks: bool, tmp_path: Path) -> None:
    models = GlobalModels()
    options: dict[str, Any] = {}
    if ranks:
        rank_list = [1, 2, 3, 2]
        options = {"federation": {"aggregation": TTRounding(), "ranks": RankList(rank_list)}}
    callbacks = [ClientEvaluation(), Personalization(["head"]), models]
    _, data, record = run(tmp_path, *callbacks, **options)
    store = clients_files(tmp_path / "clients")
    for round in (1, 2):  # of the first, the store has nothing any more
        scores = []
        for client in range(4):
            net = models.nets[round]
            if ranks:
                adapter = AdapterState.capture(
                    {n: p for n, p in net.named_parameters() if p.requires_grad}
                )
                net = personal(net, TTRounding().shrink(adapter, rank_list[client]).tensors())
            net = personal(net, store.load(client, round + 1))
            scores.append(plain_scores(net, data, [client])[0])
        check(record.rounds[round], "global", plain_scores(models.nets[round], data))
        check(record.rounds[round], "personal", np.array(scores))
    assert record.rounds[2]["client/personal_mean"] != record.rounds[2]["client/global_mean"]
    rows = list(csv.DictReader((tmp_path / "clients.csv").open()))
    np.testing.assert_allclose([float(row["personal"]) for row in rows], scores, rtol=1e-12)


class Modes(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert trainer.training and not pl_module.net.head.training
        assert pl_module.net.dropout.training and torch.is_grad_enabled()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.net.head.eval()


def test_training_is_as_without(tmp_path: Path) -> None:
    """Every weight and every draw of the training, and which modules are in evaluation mode."""
    results = []
    for extra in ([], [ClientEvaluation()]):
        options = {"enable_progress_bar": True} if extra else {}
        own = Personalization(["head"])
        module, _, record = run(tmp_path / str(len(extra)), own, Modes(), *extra, **options)
        state = torch.cat([value.ravel() for value in module.state_dict().values()])
        metrics = {k: v for k, v in record.rounds[2].items() if not k.startswith("client/")}
        results.append((state, metrics, torch.rand(3)))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    assert torch.equal(results[0][2], results[1][2])


def test_monitors_and_loggers_see_a_rounds_scores_in_it(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path / "best", monitor="client/global_mean", mode="max")
    trainer, _, _, record = make_run(tmp_path, ClientEvaluation(), best, log_every_n_steps=1)
    trainer.loggers = [CSVLogger(tmp_path / "logs")]
    data = FederatedDataModule(ToyData(), clients=4, client_holdout=0.2)
    trainer.fit(Scored(one_cycle).double(), datamodule=data)
    scores = [record.rounds[round]["client/global_mean"] for round in range(3)]
    assert best.best_model_score is not None and float(best.best_model_score) == max(scores)
    assert f"epoch={np.argmax(scores)}" in best.best_model_path
    rows = list(csv.DictReader(next(tmp_path.glob("logs/**/metrics.csv")).open()))
    rows = [row for row in rows if row["client/global_mean"]]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert [float(row["client/global_mean"]) for row in rows] == pytest.approx(scores)


def test_some_rounds_and_some_clients(tmp_path: Path) -> None:
    models, two = GlobalModels(), ClientEvaluation(every_n_rounds=2, clients=2)
    _, data, record = run(tmp_path, two, models, max_epochs=3)
    assert "client/global_mean" not in record.rounds[0]
    rows = list(csv.DictReader((tmp_path / "clients.csv").open()))
    drawn = [int(row["client"]) for row in rows]
    assert len(set(drawn)) == 2
    for round in (1, 2):  # the second, and the last
        check(record.rounds[round], "global", plain_scores(models.nets[round], data, drawn))


def test_worst_decile() -> None:
    scores = np.random.default_rng(0).random(21)
    assert worst_decile(scores) == pytest.approx(
        sorted(scores)[0] / 3 + sum(sorted(scores)[1:3]) / 3
    )
    assert worst_decile(scores[:7]) == scores[:7].min()
    assert np.isnan(worst_decile(np.array([0.0, np.nan])))


class WrongShape(Scored):
    def score(self, batch: list[Tensor]) -> Tensor:
        return super().score(batch).mean()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set data\.client_holdout to their share"):
        run(tmp_path, ClientEvaluation(), holdout=0.0)
    with pytest.raises(ConfigError, match="clients is 9, but there are 4"):
        run(tmp_path, ClientEvaluation(clients=9))
    with pytest.raises(ConfigError, match="every_n_rounds is 0, but must be >= 1"):
        ClientEvaluation(every_n_rounds=0)
    for module, message in (
        (ToyModule(one_cycle), r"define score\(self, batch\) in ToyModule"),
        (WrongShape(one_cycle), r"WrongShape.score returned shape \(\) for a batch of"),
    ):
        trainer, _, _, _ = make_run(tmp_path, ClientEvaluation())
        data = FederatedDataModule(ToyData(), clients=4, client_holdout=0.2)
        with pytest.raises(ConfigError, match=message):
            trainer.fit(module.double(), datamodule=data)
