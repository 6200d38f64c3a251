"""Runs of clients side by side that were stopped or saved anywhere end as if they were not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from callbacks.killed_runs import killed_runs
from fedtt_lightning.errors import ConfigError
from launch import launch
from toy_run import At, make_run, outcome

SIDE_BY_SIDE = {"cohort_batch": 2}


def run(folder: Path, *extra: Any, ckpt_path: Any = None, **federation: Any) -> dict[str, Any]:
    options = {**SIDE_BY_SIDE, **federation}
    trainer, module, data, record = make_run(folder, *extra, federation=options)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    assert trainer.current_epoch == 3
    return outcome(module, record)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Path]]:
    """A whole run's outcome, and the checkpoints it wrote after each batch inside a round."""
    folder = tmp_path_factory.mktemp("whole")
    files: list[Path] = []

    def save(trainer: Trainer) -> None:
        loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
        if loop.is_open:
            files.append(folder / f"{trainer.fit_loop.total_batch_idx}.ckpt")
            trainer.save_checkpoint(files[-1])
            held = torch.load(files[-1], weights_only=True)["state_dict"]
            for name, value in loop.adapter.tensors().items():
                assert torch.equal(held[name], value), "weights in a checkpoint are the global ones"

    whole = run(folder, *(At(batch, save, end=True) for batch in range(40)))
    assert len(files) > 20
    return whole, files


@pytest.mark.processes
def test_killed_at_any_batch(tmp_path: Path, saved: Any) -> None:
    whole, _ = saved
    batches = [1, 12, 19, 30, 38]
    assert launch(killed_runs, tmp_path, batches, federation=SIDE_BY_SIDE) == [0]
    assert json.loads((tmp_path / "whole.json").read_text()) == whole
    for batch in batches:
        assert json.loads((tmp_path / f"killed-{batch}.json").read_text()) == whole, batch


def test_resumes_inside_and_between_groups(tmp_path: Path, saved: Any) -> None:
    whole, files = saved
    for path in files[1::4]:
        assert run(tmp_path / path.stem, ckpt_path=path) == whole, path.stem


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted(tmp_path: Path, saved: Any, error: type[BaseException]) -> None:
    def interrupt(trainer: Trainer) -> None:
        raise error

    trainer, module, data, _ = make_run(tmp_path, At(12, interrupt), federation=SIDE_BY_SIDE)
    with pytest.raises((SystemExit, error)):
        trainer.fit(module, datamodule=data)
    adapter = trainer.callbacks[0].loop.adapter.tensors()  # type: ignore[attr-defined]
    assert all(torch.equal(module.get_parameter(name), v) for name, v in adapter.items())
    assert all("forward" not in part.__dict__ for part in module.modules())
    assert run(tmp_path, ckpt_path="last") == saved[0]


def test_another_number_of_clients_side_by_side(tmp_path: Path, saved: Any) -> None:
    """Inside a round it is refused; from a round's end on it makes no difference but rounding."""
    whole, files = saved
    with pytest.raises(ConfigError, match=r"inside round 1, whose visits are others.*federation"):
        run(tmp_path / "inside", ckpt_path=files[1], cohort_batch=3)
    trainer, module, data, _ = make_run(tmp_path, federation=SIDE_BY_SIDE, max_epochs=1)
    trainer.fit(module, datamodule=data)
    for size in (1, 3):
        other = run(
            tmp_path / str(size), ckpt_path=tmp_path / "checkpoints/last.ckpt", cohort_batch=size
        )
        for name, value in whole["state"].items():
            pair = [torch.tensor(v, dtype=torch.float64) for v in (other["state"][name], value)]
            torch.testing.assert_close(*pair, rtol=0, atol=1e-11)


def test_resumes_while_the_size_is_sought(tmp_path: Path, saved: Any) -> None:
    """Inside the second round, which tries two clients; one after another came before."""
    files: list[Path] = []

    def save(trainer: Trainer) -> None:
        loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
        if loop.inside_visit and loop.round == 1 and not files:
            files.append(tmp_path / "inside.ckpt")
            trainer.save_checkpoint(files[0])

    savers = [At(batch, save, end=True) for batch in range(60)]
    whole = run(tmp_path / "whole", *savers, cohort_batch="auto")
    content = torch.load(files[0], weights_only=True)["callbacks"]["FederatedRounds"]
    assert content["training"]["search"]["size"] == 2 and content["training"]["stacks"]
    resumed = run(tmp_path / "resumed", ckpt_path=files[0], cohort_batch="auto")
    for name, value in saved[0]["state"].items():
        for other in (whole, resumed):
            pair = [torch.tensor(v, dtype=torch.float64) for v in (other["state"][name], value)]
            torch.testing.assert_close(*pair, rtol=0, atol=1e-11)
