"""Rounds with too few clients pass and change nothing, in Lightning's own loop."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.progress import RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from callbacks.killed_skipping_runs import killed_skipping_runs
from fedtt_lightning.callbacks import RoundReport
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterState
from launch import launch
from plain_federation import PlainFederation
from skipping_run import AVAILABLE, ROUNDS, SKIPPED, AtHook, skipping
from toy import toy_data
from toy_run import make_run, one_cycle, outcome


class Plain(PlainFederation):
    def cohort(self, round: int) -> list[int]:
        clients = AVAILABLE.get(round + 1, [])
        return clients if len(clients) >= 2 else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    trainer, module, data, record = make_run(folder, **skipping(folder))
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == ROUNDS
    return outcome(module, record)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("workers", [0, 1])
def test_equals_plain_pytorch(tmp_path: Path, accumulate: int, workers: int) -> None:
    trainer, module, data, _ = make_run(
        tmp_path, plus=False, accumulate_grad_batches=accumulate, **skipping(tmp_path)
    )
    reference = copy.deepcopy(module.net)
    loader = data.inner.train_dataloader  # type: ignore[attr-defined]

    def with_workers() -> Any:
        made = loader()
        made.num_workers = workers
        return made

    data.inner.train_dataloader = with_workers  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == ROUNDS
    x, y = toy_data().tensors
    plain = Plain(11, [data.clients[i] for i in range(4)], ROUNDS, 4, one_cycle)
    plain.accumulate = accumulate
    expected = plain.run(
        reference,
        lambda net, batch: torch.nn.functional.cross_entropy(net(x[batch]), y[batch]),
    )
    for name, value in expected.items():
        assert torch.equal(module.net.get_parameter(name), value), name


def test_monitors_loggers_and_checkpoints_see_every_round(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs")
    best = ModelCheckpoint(tmp_path / "best", monitor="val_loss")
    saved: dict[int, int] = {}

    def note(trainer: Trainer) -> None:
        last = tmp_path / "checkpoints" / "last.ckpt"
        if last.exists():
            state = torch.load(last, weights_only=True)
            saved[trainer.current_epoch] = state["callbacks"]["FederatedRounds"]["loop"]["round"]

    trainer, module, data, record = make_run(
        tmp_path,
        best,
        EarlyStopping("val_loss", patience=20),
        AtHook("on_train_epoch_start", note),
        logger=logger,
        **skipping(tmp_path),
    )
    trainer.fit(module, datamodule=data)
    # At the start of each round, the last checkpoint is that of the round before, if any was.
    assert saved == {round: round - 1 for round in range(1, ROUNDS)}
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("val_loss", "fed/clients", "comm/upload_bytes_total"):
        assert [int(row["epoch"]) for row in rows if row[name]] == list(range(ROUNDS)), name
        steps = [int(row["step"]) for row in rows if row[name]]
        assert steps == sorted(set(steps)) and steps[0] == 0, name
    clients = [float(row["fed/clients"]) for row in rows if row["fed/clients"]]
    assert clients == [0, 3, 0, 0, 3, 2, 4, 0]
    losses = {int(row["epoch"]) + 1 for row in rows if row["fed/train_loss"]}
    assert losses == set(range(1, ROUNDS + 1)) - SKIPPED
    values = [record.rounds[round]["val_loss"] for round in range(ROUNDS)]
    assert values[1] == values[2] == values[3] != values[4]
    assert values[6] == values[7]
    assert best.best_model_score == pytest.approx(min(values))


def test_early_stopping_counts_skipped_rounds(tmp_path: Path) -> None:
    stopping = EarlyStopping("val_loss", patience=2)
    trainer, module, data, _ = make_run(tmp_path, stopping, **skipping(tmp_path))
    trainer.fit(module, datamodule=data)
    assert stopping.stopped_epoch == 3 and trainer.current_epoch == 4


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_with_a_progress_bar(tmp_path: Path, bar: type[Callback]) -> None:
    trainer, module, data, _ = make_run(
        tmp_path, bar(), enable_progress_bar=True, check_val_every_n_epoch=2, **skipping(tmp_path)
    )
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == ROUNDS


@pytest.mark.processes
def test_killed_and_resumed(tmp_path: Path, whole: dict[str, Any]) -> None:
    assert launch(killed_skipping_runs, tmp_path) == [0]
    results = sorted(tmp_path.glob("*.json"))
    assert len(results) == 5
    for result in results:
        assert json.loads(result.read_text()) == whole, result.stem


@pytest.mark.parametrize("options", [{}, {"max_steps": 10_000}], ids=["", "max_steps"])
def test_resumes_from_checkpoints_in_and_around_skipped_rounds(
    tmp_path: Path, whole: dict[str, Any], options: dict[str, Any]
) -> None:
    saved: list[Path] = []

    def save_as(name: str) -> Any:
        def save(trainer: Trainer) -> None:
            saved.append(tmp_path / f"{name}-{trainer.current_epoch + 1}.ckpt")
            trainer.save_checkpoint(saved[-1])

        return save

    savers = [
        AtHook(hook, save_as(hook), round)
        for hook, round in (
            ("on_train_epoch_end", 1),
            ("on_train_epoch_end", 2),
            ("on_validation_end", 3),
            ("on_train_epoch_start", 3),
            ("on_train_epoch_end", 4),
            ("on_train_epoch_start", 5),
            ("on_train_epoch_end", 7),
        )
    ]
    run = {**skipping(tmp_path), **options}
    trainer, module, data, record = make_run(tmp_path / "whole", *savers, **run)
    trainer.fit(module, datamodule=data)
    assert outcome(module, record) == whole
    assert len(saved) == 7
    for path in saved:
        trainer, module, data, record = make_run(tmp_path / path.stem, **run)
        trainer.fit(module, datamodule=data, ckpt_path=path)
        assert trainer.current_epoch == ROUNDS
        assert outcome(module, record) == whole, path.stem
        assert len(record.rounds) == ROUNDS - int(path.stem[-1]) + ("epoch_end" not in path.stem)


class Spoil(Callback):
    """Makes the updates of some clients NaN in round 2."""

    def __init__(self, clients: list[int]) -> None:
        self.clients = clients

    def on_client_update(
        self, trainer: Trainer, module: Any, visit: Any, update: AdapterState
    ) -> None:
        if visit.round == 1 and visit.client in self.clients:
            next(iter(update.buffers.values()))[0] = float("nan")


def test_a_round_with_too_few_finite_updates_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states: list[dict[str, torch.Tensor]] = []

    def keep(trainer: Trainer) -> None:
        state = trainer.lightning_module.state_dict()
        states.append({name: value.clone() for name, value in state.items()})

    trainer, module, data, record = make_run(
        tmp_path,
        Spoil([0, 3]),
        RoundReport(),
        AtHook("on_train_epoch_end", keep),
        **skipping(tmp_path),
    )
    with pytest.warns(UserWarning, match="client 3 is left out of round 2"):
        trainer.fit(module, datamodule=data)
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert not all(torch.equal(states[3][name], value) for name, value in states[4].items())
    assert record.rounds[1]["fed/clients"] == 0 and record.rounds[1]["fed/clients_rejected"] == 2
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("round 2/8"))
    assert "round 2/8 skipped: 1 of 3 updates without NaN or Inf, 2 needed  up " in line
    assert line.endswith("2 left out for NaN or Inf")


def test_fail_instead(tmp_path: Path) -> None:
    options = skipping(tmp_path, below_min_clients="fail")
    trainer, module, data, _ = make_run(tmp_path, **options)
    with pytest.raises(FederationError, match=r"round 1 has 0 usable updates .*min_clients=2"):
        trainer.fit(module, datamodule=data)
    options["federation"]["sampler"] = None  # all four clients
    trainer, module, data, _ = make_run(tmp_path / "nan", Spoil([0, 1, 3]), **options)
    with pytest.raises(FederationError, match=r"round 2 has 1 usable .* 3 with NaN or Inf"):
        trainer.fit(module, datamodule=data)


def test_the_report_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, module, data, _ = make_run(tmp_path, RoundReport(), **skipping(tmp_path))
    trainer.fit(module, datamodule=data)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("round ")]
    assert len(lines) == ROUNDS
    assert lines[0].startswith("round 1/8 skipped: no clients, 2 needed  up 0 B")
    assert lines[2].startswith("round 3/8 skipped: 1 of 1 clients answered in time, 2 needed  up ")
    for round, line in enumerate(lines, 1):
        assert ("skipped" in line) == (round in SKIPPED) == ("loss" not in line)


def test_fast_dev_run_needs_no_more_than_its_one_visit(tmp_path: Path) -> None:
    federation = {"min_clients": 3, "below_min_clients": "fail"}
    trainer, module, data, _ = make_run(tmp_path, federation=federation, fast_dev_run=True)
    trainer.fit(module, datamodule=data)
    assert trainer.callbacks[0].loop.round == 0  # type: ignore[attr-defined]
