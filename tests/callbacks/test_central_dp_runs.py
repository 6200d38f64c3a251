"""Runs with central privacy: exact without noise, fixed noise with it, budgets, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from opacus.accountants import create_accountant
from torch import Tensor

from fedtt_lightning.callbacks import CentralDP
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    ClientFailures,
    FedAdam,
    FixedPointCodec,
    PoissonSampler,
    PrivateMean,
    SecureMean,
    UniformSampler,
    generator_for,
)
from toy_run import ROUNDS, At, make_run, outcome

HIDDEN = {"weighting": "equal", "sampler": PoissonSampler(0.5)}
KNOWN = {"weighting": "equal", "sampler": UniformSampler(3)}
BITS = {"quantile": 0.5, "bit_noise": 2.0}


def run(
    folder: Path, dp: CentralDP | None, rule: PrivateMean | None, **options: Any
) -> tuple[Trainer, Any, dict[str, Any]]:
    federation = {**KNOWN, **options.pop("federation", {})}
    if rule is not None:
        federation["aggregation"] = rule
    checkpoint = options.pop("checkpoint", None)
    extra = options.pop("extra", [])
    callbacks = [*extra, *([dp] if dp else [])]
    trainer, module, data, record = make_run(folder, *callbacks, federation=federation, **options)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return trainer, module, outcome(module, record)


def trained(module: Any) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("codec", [None, FixedPointCodec(60)])
def test_without_noise_and_with_a_huge_clip_it_is_the_mean(
    tmp_path: Path, codec: FixedPointCodec | None
) -> None:
    plain, module, _ = run(tmp_path / "a", None, None)
    rule = PrivateMean(clip=1e3, codec=codec)
    private, other, _ = run(tmp_path / "b", CentralDP(noise_multiplier=0.0), rule)
    for name, value in trained(module).items():
        torch.testing.assert_close(trained(other)[name], value, rtol=0, atol=1e-12)
    assert private.callback_metrics["dp/epsilon_max"] == float("inf")
    assert plain.callback_metrics["fed/clients"] == private.callback_metrics["fed/clients"] == 3


def test_frozen_factors_stay_and_the_noise_is_the_one_that_is_keyed(tmp_path: Path) -> None:
    """One round of FedTT+: its factors that train move by mean and noise, the others not at all."""
    _, plain, _ = run(tmp_path / "a", CentralDP(noise_multiplier=0.0), PrivateMean(), max_epochs=1)
    trainer, module, _ = run(
        tmp_path / "b", CentralDP(noise_multiplier=0.8), PrivateMean(), max_epochs=1
    )
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    drawn = torch.from_numpy(
        generator_for(11, "central noise", 0).standard_normal(loop.travelling.numel)
    )
    moved = [
        (trained(module)[name] - trained(plain)[name]).reshape(-1) for name in loop.travelling.names
    ]
    torch.testing.assert_close(torch.cat(moved), drawn * 0.8 / 3, rtol=1e-9, atol=1e-12)
    frozen = trained(module).keys() - {*loop.travelling.names}
    assert frozen
    assert all(torch.equal(trained(module)[name], trained(plain)[name]) for name in frozen)


def test_dropouts_leave_the_divisor(tmp_path: Path) -> None:
    """The one client of two that answers counts half."""
    federation = {"sampler": UniformSampler(2), "failures": ClientFailures(dropout_rate=0.5)}
    for seed in range(20):
        options = {**KNOWN, **federation, "seed": seed}
        trainer, module, data, _ = make_run(
            tmp_path / str(seed),
            CentralDP(noise_multiplier=0.0),
            federation={**options, "aggregation": PrivateMean(clip=1e6)},
            max_epochs=1,
        )
        start = {name: p.detach().clone() for name, p in module.named_parameters()}
        trainer.fit(module, datamodule=data)
        loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
        if len(loop.planner.plan(0).visits) == 1:
            break
    assert len(loop.planner.plan(0).visits) == 1
    full, alone, data, _ = make_run(
        tmp_path / "alone", federation={**options, "failures": options["failures"]}, max_epochs=1
    )
    full.fit(alone, datamodule=data)
    for name, value in trained(alone).items():
        half = start[name] + (value - start[name]) / 2
        torch.testing.assert_close(trained(module)[name], half, rtol=0, atol=1e-12)


def test_epsilon_is_that_of_opacus(tmp_path: Path) -> None:
    hidden, known = CentralDP(noise_multiplier=1.2), CentralDP(noise_multiplier=1.2)
    runs = [
        run(tmp_path / "a", hidden, PrivateMean(), federation=HIDDEN)[0],
        run(tmp_path / "b", known, PrivateMean())[0],
    ]
    planner = runs[1].callbacks[0].loop.planner  # type: ignore[attr-defined]
    for client in range(4):
        came = sum(
            client in [visit.client for visit in planner.plan(round).visits]
            for round in range(ROUNDS)
        )
        for callback, rate, steps in ((hidden, 0.5, ROUNDS), (known, 1.0, came)):
            direct = create_accountant("rdp")
            for _ in range(steps):
                direct.step(noise_multiplier=1.2, sample_rate=rate)
            expected = direct.get_epsilon(1e-5) if steps else 0.0
            assert callback.ledger.epsilon(client) == pytest.approx(expected, rel=1e-12)
    for trainer, callback in zip(runs, (hidden, known), strict=True):
        metrics = trainer.callback_metrics
        assert metrics["dp/epsilon_max"] == pytest.approx(callback.ledger.largest())
        assert metrics["dp/epsilon_mean"] == pytest.approx(callback.ledger.mean())
        assert metrics["dp/clip"] == 1.0 and metrics["dp/clients_exhausted"] == 0
        assert "dp/clipped_share" not in metrics


def test_calibrated_noise_spends_the_budget_and_no_more(tmp_path: Path) -> None:
    dp = CentralDP(epsilon=3.0)
    run(tmp_path, dp, PrivateMean(), federation=HIDDEN)
    assert 2.98 < dp.ledger.largest() <= 3.0
    assert dp.noise > 0


def test_empty_rounds_add_noise(tmp_path: Path) -> None:
    """The adapter moves by the noise alone; everybody pays for the round."""
    dp = CentralDP(noise_multiplier=1.0)
    federation = {**HIDDEN, "sampler": PoissonSampler(1e-6)}
    trainer, module, data, _ = make_run(
        tmp_path, dp, federation={**federation, "aggregation": PrivateMean(clip=0.1)}, max_epochs=1
    )
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer.fit(module, datamodule=data)
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    assert loop.planner.plan(0).visits == ()
    size = loop.travelling.numel
    drawn = torch.from_numpy(generator_for(11, "central noise", 0).standard_normal(size))
    moved = [(trained(module)[n] - start[n]).reshape(-1) for n in loop.travelling.names]
    torch.testing.assert_close(torch.cat(moved), drawn * 0.1 / 4e-6, rtol=1e-6, atol=1e-9)
    assert [dp.ledger.history(client) for client in range(4)] == [((1.0, 1e-6, 1),)] * 4


class States(Callback):
    """Keeps what trains after each round."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.rounds.append({name: p.clone() for name, p in trained(pl_module).items()})


def test_a_run_ends_with_its_budget(tmp_path: Path) -> None:
    """After the last round that can be paid for the adapter stays as it is."""
    dp, states = CentralDP(epsilon=4.0, noise_multiplier=1.2), States()
    options = {"federation": HIDDEN, "extra": [states], "max_epochs": 8}
    trainer, *_ = run(tmp_path, dp, PrivateMean(), **options)
    (last,) = {*trainer.callbacks[0].loop.planner.retired.values()}  # type: ignore[attr-defined]
    assert 0 < last < 7
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(states.rounds)]
    assert same == [round >= last for round in range(1, 8)]
    assert dp.ledger.largest() <= 4.0
    assert dp.ledger.history(0) == ((1.2, 0.5, last),)


class Diverge(Callback):
    """Client 1's update is NaN."""

    def on_client_update(self, trainer: Any, module: Any, visit: Any, update: Any) -> None:
        if visit.client == 1:
            for buffer in update.buffers.values():
                buffer[0] = float("nan")


@pytest.mark.filterwarnings("ignore:client 1 counts as zero")
def test_an_update_that_is_no_number_counts_as_zero(tmp_path: Path) -> None:
    dp = CentralDP(noise_multiplier=1.0)
    federation = {"sampler": UniformSampler(), "min_clients": 4}
    options = {"federation": federation, "extra": [Diverge()]}
    trainer, module, _ = run(tmp_path, dp, PrivateMean(), **options)
    assert trainer.callback_metrics["fed/clients"] == 4  # the round was not skipped
    assert all(bool(torch.isfinite(p).all()) for p in trained(module).values())
    assert dp.ledger.history(1) == ((1.0, 1.0, ROUNDS),)


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

    savers = [At(batch, save_inside, end=True) for batch in range(0, 200, 9)]
    *_, expected = run(tmp_path / "whole", extra=[*savers, Between(save)], **options())
    assert len(saved) > 4
    for number, checkpoint in enumerate(saved):
        *_, resumed = run(tmp_path / f"resumed{number}", checkpoint=checkpoint, **options())
        assert resumed == expected, checkpoint.name


def test_a_resumed_run_must_have_the_same_privacy(tmp_path: Path) -> None:
    for name, byte in (("one", b"1"), ("other", b"2")):
        (tmp_path / name).write_bytes(byte * 32)
    one = str(tmp_path / "one")
    run(tmp_path / "a", CentralDP(3.0, secret_file=one), PrivateMean(), federation=HIDDEN)
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    rate = {**HIDDEN, "sampler": PoissonSampler(0.6)}
    for dp, options in (
        (CentralDP(3.0, secret_file=str(tmp_path / "other")), {}),
        (CentralDP(4.0, secret_file=one), {}),
        (CentralDP(3.0, delta=1e-6, secret_file=one), {}),
        (CentralDP(3.0, secret_file=one), {"max_epochs": ROUNDS + 1}),
        (CentralDP(3.0, secret_file=one), {"federation": rate}),
        (None, {"rule": SecureMean()}),
    ):
        settings = {"rule": PrivateMean(), "federation": HIDDEN, **options}
        with pytest.raises(ConfigError, match="use the same"):
            run(tmp_path / "b", dp, checkpoint=last, **settings)
