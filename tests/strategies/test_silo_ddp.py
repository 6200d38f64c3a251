"""Silos, each with clients of its own, end where one process does."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from fedtt_lightning.strategies import SiloDDPStrategy
from launch import launch
from strategies.silo_refusals import fit
from strategies.silo_runs import lose, run, run_silos
from toy_run import At

# name:silos:precision:dropout:rounds
FOUR = [
    "kept:4:64-true:0:4",  # a lane without client in every round, since 3 are drawn
    "kept:2:64-true:0:4",  # two processes share each batch
    "kept:2:32-true:0:4",
    "drifting:4:32-true:0.2:4",
    "drifting:2:64-true:0:4",
    "krum:4:32-true:0.2:4",
    "private:4:64-true:0.2:4",
    "kept:4:64-true:0:2",  # to go on with in others
]
TWO = [
    "kept:2:64-true:0.2:4",
    "drifting:2:32-true:0.2:4",
    "krum:2:64-true:0.2:4",
    "private:2:32-true:0.2:4",
    "kept:1:64-true:0:4",
]
REFUSED = {
    "silos": r"trainer.strategy has 3 silos, into which 2 processes do not divide: change .*",
    "max_steps": r"trainer.max_steps .*: use trainer.max_epochs",
    "max_time": r"trainer.max_time or a Timer .*: use a Timer with interval epoch",
    "every_n_visits": r"FederatedCheckpoint's every_n_visits is 1, .*: set it to 0",
    "on_exception": r"OnExceptionCheckpoint in trainer.callbacks saves on exceptions, .*",
    "save_on_exception": r"ModelCheckpoint in trainer.callbacks saves on exceptions, .*",
    "16-mixed": r"trainer.precision is 16-mixed, .*: use bf16-mixed or 32-true",
    "steps": r"trainer.estimated_stepping_batches .* differs by silo: give schedulers of .*",
    "synced": r"net.dropout is a SyncBatchNorm, .*: put it into eval mode or use GroupNorm or .*",
    "inside": r"a checkpoint was asked for inside round 1, .*: save at round ends only",
    "resumed_inside": r"the checkpoint lies inside round 1, .*: let one end the round, or .*",
    "of_all": r"training_step logs (of_all|a metric) .* in round 1 not all .*: leave sync_dist .*",
}

_DIFFER = r"the processes of rank 0 and 1 differ in {}: start all of them with the same config, .*"
UNLIKE = {
    "nothing": "nothing",
    "model": _DIFFER.format("model"),
    "model, in one silo": _DIFFER.format("model"),
    "data": _DIFFER.format("data.clients, data.partition and data.client_holdout; data; .*"),
    "optimizer": _DIFFER.format("model.lr and other options of optimizers"),
    "optimizer, in one silo": _DIFFER.format("model.lr and other options of optimizers"),
    "rounds": _DIFFER.format(
        "federation.server; trainer.max_epochs; federation.sampler and federation.failures"
    ),
}


def alone(folder: Path, case: str) -> dict[str, Any]:
    """What a single process gets in the same case."""
    name, _, precision, dropout, rounds = case.split(":")
    options: Any = {"precision": precision, "dropout": float(dropout), "rounds": int(rounds)}
    return run(folder, name, **options)


def check(folder: Path, case: str, processes: int, expected: dict[str, Any], atol: float) -> None:
    results = [
        torch.load(folder / f"{case}-{rank}.pt", weights_only=True) for rank in range(processes)
    ]
    for result in results:
        assert result["bytes"] == expected["bytes"]
        assert result["steps"] == expected["steps"]
        assert result["metrics"].keys() == expected["metrics"].keys()
        assert result["best"] == expected.get("best", result["best"])
        for kind in ("state", "metrics"):
            for name, value in expected[kind].items():
                # Held-out examples of all clients lie in batches that each process makes anew.
                close = max(atol, 1e-12) if name.startswith("client/") else atol
                torch.testing.assert_close(result[kind][name], value, rtol=0, atol=close)
                assert torch.equal(result[kind][name], results[0][kind][name]), name


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    assert launch(run_silos, folder, 4, FOUR, processes=4) == [0] * 4
    return folder


def test_its_name_is_plain_ddp() -> None:
    trainer = Trainer(strategy="silo_ddp", accelerator="cpu", devices=1, logger=False)
    assert isinstance(trainer.strategy, SiloDDPStrategy) and trainer.strategy.silos == 1


@pytest.mark.processes
@pytest.mark.parametrize("case", FOUR[:-1])
def test_four_processes_end_where_one_does(four: Path, case: str, tmp_path: Path) -> None:
    lanes = case.split(":")[1] == "4"
    split = 1e-12 if "64" in case else 1e-6
    check(four, case, 4, alone(tmp_path, case), atol=0 if lanes else split)


@pytest.mark.processes
def test_lanes_leave_the_same_checkpoints(four: Path, tmp_path: Path) -> None:
    """Whole: all that callbacks keep is there, so a run may go on with other processes."""
    case = FOUR[-1]
    alone(tmp_path, case)
    ours, theirs = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
        for path in (four / case, tmp_path)
    )
    assert ours.keys() == theirs.keys()
    for key in ("state_dict", "global_step", "epoch"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)
    assert ours["callbacks"].keys() == theirs["callbacks"].keys()
    for name in ("Communication", "EarlySigns", "RoundReport"):
        torch.testing.assert_close(ours["callbacks"][name], theirs["callbacks"][name])


@pytest.mark.processes
def test_two_lanes_end_where_one_does(four: Path, tmp_path: Path) -> None:
    """Also after four have begun; and they stop at a round's end, where one is told to."""
    whole, half = alone(tmp_path / "one", FOUR[0]), FOUR[-1]
    shutil.copytree(four / half, tmp_path / "goes-on")
    check_equal(alone(tmp_path / "goes-on", FOUR[0]), whole)
    del whole["best"]  # which is begun anew in another folder
    onward = "kept:2:64-true:0:4"
    shutil.copytree(four / half, tmp_path / onward)
    fit(tmp_path, At(1, lambda trainer: trainer.save_checkpoint(tmp_path / "inside.ckpt")))
    others = ["refused", "unlike", "terminated", "stopped"]
    assert launch(run_silos, tmp_path, 2, [*others, *TWO, onward], processes=2) == [0, 0]
    check(tmp_path, onward, 2, whole, atol=0)
    check(tmp_path, "terminated", 2, whole, atol=0)
    check(tmp_path, "stopped", 2, alone(tmp_path / "two-rounds", half), atol=0)
    for case in TWO:
        split = case.split(":")[1] == "1"
        check(tmp_path, case, 2, alone(tmp_path / case[:-1], case), atol=1e-12 if split else 0)
    for rank in range(2):
        assert torch.load(tmp_path / f"terminated-{rank}.pt", weights_only=True)["epoch"] == 1
        for kind, lines in (("refused", REFUSED), ("unlike", UNLIKE)):
            said = torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True)
            assert said.keys() == lines.keys()
            for name, line in lines.items():
                assert re.fullmatch(line, said[name]), said[name]


@pytest.mark.processes
@pytest.mark.parametrize("waited_for", [True, False])
def test_a_lost_process_ends_all_and_the_run_goes_on_with_one(
    tmp_path: Path, waited_for: bool
) -> None:
    assert launch(lose, tmp_path, 3, waited_for, processes=3) == [0, 0, -signal.SIGKILL]
    first, second = ((tmp_path / f"said-{rank}").read_text() for rank in range(2))
    line = r"a process of silo 3 of 3 \(rank 2\) was lost in round 2.*--ckpt_path last"
    assert re.fullmatch(line, first), first
    assert re.fullmatch(r".* in round 2.*--ckpt_path last", second), second
    check_equal(run(tmp_path, "kept"), run(tmp_path / "whole", "kept"))


def check_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["steps"] == theirs["steps"] and ours["bytes"] == theirs["bytes"]
    for name, value in theirs["state"].items():
        assert torch.equal(ours["state"][name], value), name
