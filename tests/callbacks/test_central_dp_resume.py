"""Central privacy goes on where a run stopped: the same noise, cohorts, clip and ε."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from callbacks.killed_runs import killed_runs
from central_run import BITS, HIDDEN, KNOWN, run
from fedtt_lightning.callbacks import CentralDP
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import (
    FedAdam,
    FixedPointCodec,
    FixedSampler,
    PoissonSampler,
    PrivateMean,
    SecureMean,
    UniformSampler,
)
from launch import launch
from toy_run import ROUNDS, At

RESUMED: dict[str, Callable[[], dict[str, Any]]] = {
    "poisson": lambda: {"rule": PrivateMean(), "federation": HIDDEN},
    "adaptive clip": lambda: {
        "rule": PrivateMean(**BITS),
        "federation": {**HIDDEN, "server": FedAdam(0.1)},
    },
    "known cohorts": lambda: {"rule": PrivateMean()},
    "noise in shares": lambda: {"rule": PrivateMean(codec=FixedPointCodec(), **BITS)},
    "budget": lambda: {"rule": PrivateMean(), "dp": CentralDP(7.0, noise_multiplier=1.0)},
    "secure sums": lambda: {"rule": SecureMean(range=10.0, clients=3, max_weight=50), "dp": None},
}


class Between(Callback):
    """Does something after each round but the last."""

    def __init__(self, action: Callable[[Trainer], None]) -> None:
        self.action = action

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking and trainer.current_epoch < ROUNDS - 1:
            self.action(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch < ROUNDS - 1:
            self.action(trainer)


@pytest.mark.parametrize("case", RESUMED)
def test_goes_on_inside_and_between_rounds(case: str, tmp_path: Path) -> None:
    saved: list[Path] = []

    def save(trainer: Trainer) -> None:
        saved.append(tmp_path / f"{len(saved)}.ckpt")
        trainer.save_checkpoint(saved[-1])

    def save_inside(trainer: Trainer) -> None:
        if trainer.callbacks[0].loop.is_open:  # type: ignore[attr-defined]
            save(trainer)

    def options() -> dict[str, Any]:
        return {"dp": CentralDP(noise_multiplier=1.0), **RESUMED[case]()}

    savers = [At(batch, save_inside, end=True) for batch in range(0, 200, 19)]
    *_, expected = run(tmp_path / "whole", extra=[*savers, Between(save)], **options())
    assert len(saved) > 3
    # Lightning sums up the loss after validation: a skipped round shows the one before.
    del expected["metrics"]["fed/train_loss"]
    for number, checkpoint in enumerate(saved):
        *_, resumed = run(tmp_path / f"resumed{number}", checkpoint=checkpoint, **options())
        del resumed["metrics"]["fed/train_loss"]
        assert resumed == expected, checkpoint.name


def test_a_resumed_run_must_have_the_same_privacy(tmp_path: Path) -> None:
    for name, byte in (("one", b"1"), ("other", b"2")):
        (tmp_path / name).write_bytes(byte * 32)
    one = str(tmp_path / "one")
    rule, settings = PrivateMean(), {"noise_multiplier": 1.0, "secret_file": one}
    run(tmp_path / "a", CentralDP(**settings), rule, federation=HIDDEN)
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    rate = {**HIDDEN, "sampler": PoissonSampler(0.6)}
    for changed, options in (
        ({"secret_file": str(tmp_path / "other")}, {}),
        ({"secret_file": None}, {}),
        ({"noise_multiplier": 1.1}, {}),
        ({"epsilon": 9.0}, {}),
        ({"delta": 1e-6}, {}),
        ({"accountant": "prv"}, {}),
        ({}, {"federation": rate}),
        ({}, {"rule": PrivateMean(clip=2.0)}),
        (None, {"rule": SecureMean()}),
    ):
        dp = None if changed is None else CentralDP(**{**settings, **changed})
        parts = {"rule": rule, "federation": HIDDEN, **options}
        with pytest.raises(ConfigError, match="use the same"):
            run(tmp_path / "b", dp, checkpoint=last, **parts)


def test_a_calibrated_run_cannot_be_made_longer(tmp_path: Path) -> None:
    run(tmp_path, CentralDP(9.0), PrivateMean())
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match=r"calibrated for 3 rounds.*calibrated for 4 rounds"):
        run(tmp_path, CentralDP(9.0), PrivateMean(), checkpoint=last, max_epochs=ROUNDS + 1)


def test_other_cohorts_cannot_make_a_client_spend_more(tmp_path: Path) -> None:
    """Clients 2 and 3 have spent all in rounds that another sampler, asked now, gives to others."""
    dp: dict[str, Any] = {"epsilon": 8.0, "noise_multiplier": 1.0}
    first = {"sampler": FixedSampler([2, 3])}
    run(tmp_path, CentralDP(**dp), PrivateMean(), federation=first, max_epochs=2)
    last = tmp_path / "checkpoints" / "last.ckpt"
    other = {"sampler": UniformSampler(2)}
    with pytest.raises(FederationError, match=r"round 3 would cost a client epsilon 9\.01 of 8"):
        run(tmp_path, CentralDP(**dp), PrivateMean(), federation=other, checkpoint=last)


def test_between_rounds_a_checkpoint_holds_no_gradient_and_no_sum(tmp_path: Path) -> None:
    """Adam's moments are a client's gradients, and the open sum is without noise."""
    run(tmp_path, CentralDP(noise_multiplier=1.0), PrivateMean(), federation=HIDDEN)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert [optimizer["state"] for optimizer in state["optimizer_states"]] == [{}]
    loop = state["callbacks"]["FederatedRounds"]["loop"]
    assert loop["aggregation"]["total"] is None and loop["local"] is None
    assert not state["callbacks"]["FederatedRounds"]["grads"]


# At the first batch after the round of nobody; where two of three clients have added their share.
KILLED = [
    (4, {**HIDDEN, "aggregation": PrivateMean(**BITS), "server": FedAdam(0.1)}),
    (13, {**KNOWN, "aggregation": PrivateMean(codec=FixedPointCodec(), **BITS)}),
]


@pytest.mark.processes
@pytest.mark.parametrize(("batch", "federation"), KILLED, ids=["poisson", "shares"])
def test_killed_inside_a_round(batch: int, federation: dict[str, Any], tmp_path: Path) -> None:
    dp = CentralDP(epsilon=30.0, noise_multiplier=1.0)
    assert launch(killed_runs, tmp_path, [batch], dp, federation=federation) == [0]
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert json.loads((tmp_path / f"killed-{batch}.json").read_text()) == whole
    assert whole["metrics"]["dp/epsilon_max"] > 0
