"""A private run that stops anywhere goes on with the same noise, the same batches and ε."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from callbacks.killed_runs import killed_runs
from fedtt_lightning.callbacks import Personalization
from fedtt_lightning.privacy.accounting import epsilon_of
from launch import launch
from private_run import local_dp, private_outcome, private_run, private_run_to_file
from toy_run import At

# With it the first client is left out of the last round.
DP = {"epsilon": 22.0, "accountant": "gdp"}


@dataclass
class Whole:
    """The outcome of a run that was not interrupted, its key and the first batch of each visit."""

    outcome: dict[str, Any]
    secret: Path
    firsts: list[int]
    batches: int
    exhausted: tuple[int, ...]

    def dp(self) -> dict[str, Any]:
        return {**DP, "secret_file": str(self.secret)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    secret = folder / "secret"
    secret.write_bytes(bytes(range(32)))
    trainer, module, data, record = private_run(folder, dp={**DP, "secret_file": str(secret)})
    trainer.fit(module, datamodule=data)
    planner = trainer.callbacks[0].loop.planner  # type: ignore[attr-defined]
    batches, firsts = 0, []
    for plan in map(planner.plan, range(3)):
        firsts += [batches + visit.first_batch for visit in plan.visits]
        batches += plan.num_batches
    found = private_outcome(trainer, module, record)
    return Whole(found, secret, firsts, batches, planner.plan(2).exhausted)


def resume(folder: Path, whole: Whole, ckpt_path: Any = "last") -> dict[str, Any]:
    trainer, module, data, record = private_run(folder, dp=whole.dp())
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    assert trainer.current_epoch == 3
    return private_outcome(trainer, module, record)


def test_the_whole_run_spends_and_leaves_out(whole: Whole) -> None:
    histories = [tuple(map(tuple, rows)) for rows in whole.outcome["ledger"]["spent"].values()]
    largest = max(epsilon_of(history, 1e-5, "gdp") for history in histories)
    assert whole.outcome["metrics"]["dp/epsilon_max"] == pytest.approx(largest, rel=1e-6)
    assert whole.exhausted == (0,) and whole.outcome["metrics"]["dp/clients_exhausted"] == 1


@pytest.mark.processes
def test_killed_at_any_batch(tmp_path: Path, whole: Whole) -> None:
    firsts = whole.firsts
    batches = [firsts[2] + 3, firsts[3] - 1]  # inside a visit, and at one's end
    options = {"run": private_run_to_file, "dp": whole.dp()}
    assert launch(killed_runs, tmp_path, batches, **options) == [0]
    assert json.loads((tmp_path / "whole.json").read_text()) == whole.outcome
    for batch in batches:
        assert json.loads((tmp_path / f"killed-{batch}.json").read_text()) == whole.outcome, batch


def test_resumes_from_a_checkpoint_at_every_batch(tmp_path: Path, whole: Whole) -> None:
    saved: list[Path] = []

    def save(trainer: Trainer) -> None:
        if trainer.callbacks[0].loop.is_open:  # type: ignore[attr-defined]
            saved.append(tmp_path / f"{trainer.fit_loop.total_batch_idx}.ckpt")
            trainer.save_checkpoint(saved[-1])

    savers = [At(batch, save, end=True) for batch in range(whole.batches)]
    trainer, module, data, record = private_run(tmp_path, *savers, dp=whole.dp())
    trainer.fit(module, datamodule=data)
    assert private_outcome(trainer, module, record) == whole.outcome
    assert len(saved) == whole.batches - 3
    for path in saved[2::9]:
        assert resume(tmp_path / path.stem, whole, path) == whole.outcome, path.stem


@pytest.mark.parametrize("batch", [1, 9, 24])
def test_stopped_by_max_steps_inside_a_visit(tmp_path: Path, whole: Whole, batch: int) -> None:
    trainer, module, data, _ = private_run(tmp_path, dp=whole.dp(), max_steps=batch)
    trainer.fit(module, datamodule=data)
    accounts = local_dp(trainer).ledger
    assert sum(n for c in range(4) for _, _, n in accounts.history(c)) == batch
    assert resume(tmp_path, whole) == whole.outcome


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted(tmp_path: Path, whole: Whole, error: type[BaseException]) -> None:
    def interrupt(trainer: Trainer) -> None:
        raise error

    trainer, module, data, _ = private_run(tmp_path, At(9, interrupt), dp=whole.dp())
    with pytest.raises((SystemExit, error)):
        trainer.fit(module, datamodule=data)
    assert not any(module._forward_hooks or m._forward_hooks for m in module.modules())
    assert resume(tmp_path, whole) == whole.outcome


def test_another_key_gives_other_noise_and_batches(tmp_path: Path, whole: Whole) -> None:
    other = tmp_path / "secret"
    other.write_bytes(bytes(32))
    trainer, module, data, record = private_run(tmp_path, dp={**DP, "secret_file": str(other)})
    trainer.fit(module, datamodule=data)
    found = private_outcome(trainer, module, record)
    assert found["ledger"] == whole.outcome["ledger"]
    assert found["state"] != whole.outcome["state"]


@pytest.mark.parametrize("first", [True, False])
def test_private_tensors_of_clients_train_privately_too(tmp_path: Path, first: bool) -> None:
    """Wherever Personalization stands, which writes a client's tensors when its visit begins."""

    def run(folder: Path, batch: int | None) -> Any:
        def stop(trainer: Trainer) -> None:
            trainer.should_stop = True

        keeps = Personalization(["net.head"])
        stops = [] if batch is None else [At(batch, stop)]
        trainer, module, data, _ = private_run(folder, keeps, *stops)
        if first:
            trainer.callbacks.remove(keeps)  # type: ignore[attr-defined]
            trainer.callbacks.insert(0, keeps)  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=data, ckpt_path="last")
        return dict(module.named_parameters()), local_dp(trainer).ledger.state_dict()

    whole = run(tmp_path / "whole", None)
    run(tmp_path / "cut", 40)
    again = run(tmp_path / "cut", None)
    assert again[1] == whole[1]
    assert all(torch.equal(again[0][name], value) for name, value in whole[0].items())
