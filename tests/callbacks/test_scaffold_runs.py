"""SCAFFOLD's bytes, its resume, what it leaves alone and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision

from fedtt_lightning.callbacks import (
    ClientStore,
    Communication,
    FederatedRounds,
    FedProx,
    Personalization,
)
from fedtt_lightning.callbacks.scaffold import Scaffold
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AdapterState,
    ClientFailures,
    ClientSampler,
    FixedSampler,
    TTRounding,
    UniformSampler,
)
from toy_run import ROUNDS, At, clients_files, make_run, outcome


def find(trainer: Trainer, kind: type) -> Any:
    return next(c for c in trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]


def control_variates(trainer: Trainer, folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    store = ClientStore(folder / "scaffold" / find(trainer, Scaffold).state_dict()["run"])
    own = {client: store.load(client, rounds) for client in range(4)}
    c = find(trainer, Scaffold).state_dict()["server"]
    return {
        "c": {name: value.tolist() for name, value in c.items()},
        "own": {k: v and {n: t.tolist() for n, t in v.items()} for k, v in own.items()},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    trainer, module, data, record = make_run(folder, Scaffold())
    trainer.fit(module, datamodule=data)
    return outcome(module, record), control_variates(trainer, folder)


@pytest.mark.parametrize("batch", [0, 3, 11, 21, 25])
def test_resumes_at_any_batch(tmp_path: Path, whole: Any, batch: int) -> None:
    def save(trainer: Trainer) -> None:
        trainer.save_checkpoint(tmp_path / "inside.ckpt")
        shutil.copytree(tmp_path / "a" / "scaffold", tmp_path / "b" / "scaffold")
        raise KeyboardInterrupt

    trainer, module, data, _ = make_run(tmp_path / "a", Scaffold(), At(batch, save, end=True))
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        trainer.fit(module, datamodule=data)
    assert torch.load(tmp_path / "inside.ckpt", weights_only=True)
    trainer, module, data, record = make_run(tmp_path / "b", Scaffold())
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "inside.ckpt")
    assert (outcome(module, record), control_variates(trainer, tmp_path / "b")) == whole


@pytest.mark.parametrize("batch", [9, 16, 24])
def test_goes_on_from_a_checkpoint_that_is_behind_the_files(
    tmp_path: Path, whole: Any, batch: int
) -> None:
    def interrupt(trainer: Trainer) -> None:
        raise RuntimeError("a power cut")

    options: dict[str, Any] = {"every_n_visits": 2}
    trainer, module, data, _ = make_run(
        tmp_path, Scaffold(), At(batch, interrupt), plus=True, **options
    )
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.fit(module, datamodule=data)
    trainer, module, data, record = make_run(tmp_path, Scaffold(), **options)
    trainer.fit(module, datamodule=data, ckpt_path="last")
    assert (outcome(module, record), control_variates(trainer, tmp_path)) == whole


def test_goes_on_from_the_only_checkpoint_of_four_rounds_ago(tmp_path: Path) -> None:
    """Killed before the eighth round's end, after clients left three more versions."""

    def build(folder: str, *extra: Callback) -> Any:
        own = [Scaffold(), Personalization(["head"]), *extra]
        trainer, *rest = make_run(tmp_path / folder, *own, max_epochs=9)
        kept = ModelCheckpoint(tmp_path / folder / "plain", every_n_epochs=4, save_last=True)
        others = [c for c in trainer.callbacks if not isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        trainer.callbacks[:] = [*others, kept]  # type: ignore[attr-defined]
        return trainer, *rest

    def kill(trainer: Trainer) -> None:
        raise RuntimeError("killed")

    trainer, module, data, record = build("whole")
    trainer.fit(module, datamodule=data)
    expected = outcome(module, record), control_variates(trainer, tmp_path / "whole", 9)
    planner = find(trainer, FederatedRounds).loop.planner
    batches = sum(planner.plan(round).num_batches for round in range(8))
    trainer, module, data, _ = build("killed", At(batches - 1, kill))
    with pytest.raises(RuntimeError, match="killed"):
        trainer.fit(module, datamodule=data)
    last = tmp_path / "killed" / "plain" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 3
    trainer, module, data, record = build("killed")
    trainer.fit(module, datamodule=data, ckpt_path=last)
    found = outcome(module, record), control_variates(trainer, tmp_path / "killed", 9)
    assert found == expected


def test_wants_the_files_of_its_own_run(tmp_path: Path, whole: Any) -> None:
    trainer, module, data, _ = make_run(tmp_path, Scaffold(), max_epochs=2)
    trainer.fit(module, datamodule=data)
    last = tmp_path / "checkpoints" / "last.ckpt"
    kept = shutil.copy(last, tmp_path / "kept.ckpt")
    trainer, module, data, _ = make_run(tmp_path / "other", Scaffold())
    with pytest.raises(ConfigError, match=r"there is no folder .*other/scaffold/.*dirpath, or put"):
        trainer.fit(module, datamodule=data, ckpt_path=kept)
    for path in (None, kept):  # a new run, and then the old one as if there had been no other
        trainer, module, data, record = make_run(tmp_path, Scaffold())
        trainer.fit(module, datamodule=data, ckpt_path=path)
        assert (outcome(module, record), control_variates(trainer, tmp_path)) == whole


class Failing(Callback):
    """Spoils the update of one client in the last round."""

    def __init__(self, client: int) -> None:
        self.client = client

    def on_client_update(self, trainer: Any, module: Any, visit: Any, update: Any) -> Any:
        if visit.round < ROUNDS - 1 or visit.client != self.client:
            return None
        return AdapterState(update.schema, {k: v * float("nan") for k, v in update.buffers.items()})


def test_a_rejected_update_changes_no_control_variate(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, Scaffold())
    trainer.fit(module, datamodule=data)
    clients = [v.client for v in find(trainer, FederatedRounds).loop.plan.visits]
    store = clients_files(tmp_path / "scaffold")
    before = {client: store.load(client, ROUNDS - 1) for client in clients}
    after = {client: store.load(client, ROUNDS) for client in clients}

    trainer, module, data, _ = make_run(tmp_path / "b", Scaffold(), Failing(clients[1]))
    with pytest.warns(UserWarning, match="is left out of round"):
        trainer.fit(module, datamodule=data)
    store = clients_files(tmp_path / "b" / "scaffold")
    for client in clients:
        expected = before[client] if client == clients[1] else after[client]
        found = store.load(client, ROUNDS)
        assert found is not None and expected is not None
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    own = [store.load(client, ROUNDS) for client in range(4)]
    for name, value in find(trainer, Scaffold).state_dict()["server"].items():
        mean = sum(o[name] for o in own if o is not None) / 4
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("failures", [None, ClientFailures(0.4)])
def test_counts_the_control_variates(tmp_path: Path, failures: ClientFailures | None) -> None:
    counts = []
    for extra in ([], [Scaffold()]):
        trainer, module, data, record = make_run(tmp_path / str(len(extra)), *extra)
        trainer.callbacks[0].failures = failures  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=data)
        communication = find(trainer, Communication)
        counts.append((communication.downloaded_total, communication.uploaded_total))
        last = record.rounds[ROUNDS - 1]
        assert last["comm/download_bytes_total"] == communication.downloaded_total
    loop = find(trainer, FederatedRounds).loop
    downloads = uploads = 0
    for round in range(ROUNDS):
        plan = loop.planner.plan(round)
        trained = loop.schema.select(loop.schedule.trained(loop.schema.names, round))
        message = len(AdapterState.capture(loop.tensors, trained).to_bytes())
        assert not plan.late
        downloads += message * (len(plan.visits) + len(plan.dropped) + len(plan.unused))
        uploads += message * (len(plan.visits) + len(plan.unused))
    assert counts[1][0] - counts[0][0] == downloads
    assert counts[1][1] - counts[0][1] == uploads


def test_private_tensors_have_no_control_variate(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, Personalization(["head"]), Scaffold())
    trainer.fit(module, datamodule=data)
    names = set(find(trainer, Scaffold).state_dict()["server"])
    assert names == {*find(trainer, FederatedRounds).loop.schema.names} - {
        "net.head.weight",
        "net.head.bias",
    }


class Strangers(ClientSampler):
    """Never takes a client twice."""

    def cohort(self, experiment: int, round: int, sizes: Any) -> tuple[int, ...]:
        return (round,)


def test_refuses_what_control_variates_cannot_go_with(tmp_path: Path) -> None:
    def refused(message: str, *callbacks: Callback, **options: Any) -> None:
        federation = options.pop("federation", {})
        trainer, module, data, _ = make_run(tmp_path, *callbacks, **options)
        vars(trainer.callbacks[0]).update(federation)  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match=message):
            trainer.fit(module, datamodule=data)

    stranger = {"federation": {"sampler": Strangers()}}
    message = r"federation\.sampler brings no client back within trainer\.max_epochs=3"
    refused(message, Scaffold(), **stranger)
    refused("no client back", Scaffold(), max_epochs=1)
    refused("TTRounding makes factors anew", Scaffold(), federation={"aggregation": TTRounding()})
    half = MixedPrecision("16-mixed", "cpu")
    refused("precision is 16-mixed", Scaffold(), precision=None, plugins=[half])
    refused(r"trainer\.callbacks names FedProx before Scaffold", FedProx(), Scaffold())


def test_a_sampler_that_comes_back_and_a_trial_run_are_fine(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, Scaffold(), max_epochs=2)
    trainer.callbacks[0].sampler = FixedSampler([2])  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    run = clients_files(tmp_path / "scaffold").run
    trainer, module, data, _ = make_run(tmp_path, Scaffold(), fast_dev_run=True)
    trainer.callbacks[0].sampler = UniformSampler(1)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    assert clients_files(tmp_path / "scaffold").run == run
