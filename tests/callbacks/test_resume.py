"""A run that was killed, stopped or interrupted anywhere ends as if it had not been."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from callbacks.killed_runs import killed_runs
from fedtt_lightning.errors import ConfigError
from launch import launch
from toy_run import At, make_run, outcome


@dataclass
class Whole:
    """The outcome of a run that was not interrupted, and the first batch of each of its visits."""

    outcome: dict[str, Any]
    firsts: list[int]
    batches: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    trainer, module, data, record = make_run(tmp_path_factory.mktemp("whole"))
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == 3
    planner = trainer.callbacks[0].loop.planner  # type: ignore[attr-defined]
    batches, firsts = 0, []
    for plan in map(planner.plan, range(3)):
        firsts += [batches + visit.first_batch for visit in plan.visits]
        batches += plan.num_batches
    return Whole(outcome(module, record), firsts, batches)


def resume(folder: Path, ckpt_path: Any = "last", **options: Any) -> dict[str, Any]:
    trainer, module, data, record = make_run(folder, **options)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    assert trainer.current_epoch == 3
    return outcome(module, record)


@pytest.mark.processes
def test_killed_at_any_batch(tmp_path: Path, whole: Whole) -> None:
    firsts = whole.firsts
    # Before the first checkpoint, inside visits, at their first and last batches, at round ends.
    inside = [first + 2 for first in firsts[1:5]]
    batches = sorted({0, 1, firsts[1], *inside, firsts[3] - 1, firsts[3], whole.batches - 1})
    assert launch(killed_runs, tmp_path, batches) == [0]
    assert json.loads((tmp_path / "whole.json").read_text()) == whole.outcome
    for batch in batches:
        assert json.loads((tmp_path / f"killed-{batch}.json").read_text()) == whole.outcome, batch


def test_resumes_from_a_checkpoint_at_every_batch(tmp_path: Path, whole: Whole) -> None:
    saved: list[Path] = []

    def save(trainer: Trainer) -> None:
        loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
        if loop.is_open:
            saved.append(tmp_path / f"{trainer.fit_loop.total_batch_idx}.ckpt")
            trainer.save_checkpoint(saved[-1])

    savers = [At(batch, save, end=True) for batch in range(whole.batches)]
    trainer, module, data, record = make_run(tmp_path, *savers)
    trainer.fit(module, datamodule=data)
    assert outcome(module, record) == whole.outcome
    assert len(saved) == whole.batches - 3
    for path in saved[1::5]:
        assert resume(tmp_path / path.stem, path) == whole.outcome, path.stem


@pytest.mark.parametrize("batch", [1, 9, 24])
def test_stopped_inside_a_round(tmp_path: Path, whole: Whole, batch: int) -> None:
    """`max_steps` ends training inside a visit: the model is global, and `last` goes on."""
    trainer, module, data, _ = make_run(tmp_path, max_steps=batch)
    trainer.fit(module, datamodule=data)
    check_global(trainer, module)
    assert resume(tmp_path) == whole.outcome


def test_max_time_and_should_stop(tmp_path: Path, whole: Whole) -> None:
    def stop(trainer: Trainer) -> None:
        trainer.should_stop = True

    trainer, module, data, _ = make_run(tmp_path / "a", At(7, stop))
    trainer.fit(module, datamodule=data)
    check_global(trainer, module)
    assert resume(tmp_path / "a") == whole.outcome
    trainer, module, data, _ = make_run(tmp_path / "b", max_time=timedelta(milliseconds=1))
    trainer.fit(module, datamodule=data)
    check_global(trainer, module)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted(tmp_path: Path, whole: Whole, error: type[BaseException]) -> None:
    def interrupt(trainer: Trainer) -> None:
        raise error

    trainer, module, data, _ = make_run(tmp_path, At(9, interrupt))
    with pytest.raises((SystemExit, error)):
        trainer.fit(module, datamodule=data)
    check_global(trainer, module)
    assert resume(tmp_path) == whole.outcome


def check_global(trainer: Trainer, module: torch.nn.Module) -> None:
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    assert loop.is_open
    for name, value in loop.adapter.tensors().items():
        assert torch.equal(module.get_parameter(name), value), name


def test_weights_in_a_checkpoint_inside_a_visit_are_global(tmp_path: Path) -> None:
    seen = []

    def save(trainer: Trainer) -> None:
        loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
        assert loop.inside_visit
        trainer.save_checkpoint(tmp_path / "inside.ckpt")
        seen.append({name: value.clone() for name, value in loop.adapter.tensors().items()})

    trainer, module, data, _ = make_run(tmp_path, At(2, save, end=True))
    trainer.fit(module, datamodule=data)
    weights = torch.load(tmp_path / "inside.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], value) for name, value in seen[0].items())


def test_refuses_what_does_not_fit(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path)
    trainer.fit(module, datamodule=data)
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match=r"trained with RotatingFactor.*this run has TrainAll"):
        resume(tmp_path / "other", last, plus=False)
    (tmp_path / "cut.ckpt").write_bytes(last.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        resume(tmp_path / "other", tmp_path / "cut.ckpt")
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        resume(tmp_path / "other", tmp_path / "absent.ckpt")
    content = torch.load(last, weights_only=True)
    del content["callbacks"]["FederatedRounds"]
    torch.save(content, tmp_path / "plain.ckpt")
    with pytest.raises(ConfigError, match="not written by a federated run"):
        resume(tmp_path / "other", tmp_path / "plain.ckpt")


def test_refuses_other_batches_inside_a_round(tmp_path: Path) -> None:
    """Of which there are as many: what is left of the visit would be other examples."""
    trainer, module, data, _ = make_run(tmp_path, max_steps=3)
    data.inner.batch_size = 8
    trainer.fit(module, datamodule=data)
    trainer, module, data, _ = make_run(tmp_path)
    data.inner.batch_size = 7
    with pytest.raises(ConfigError, match=r"round with batches of 8 .* has batches of 7 .*: use"):
        trainer.fit(module, datamodule=data, ckpt_path="last")
