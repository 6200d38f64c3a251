"""Runs with central privacy: exact without noise, fixed noise with it, budgets that end."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from opacus.accountants import create_accountant
from torch import Tensor

from central_run import BITS, HIDDEN, KNOWN, run, trained
from federation.pairwise_masks import PairwiseMaskedSum
from fedtt_lightning.callbacks import CentralDP, LocalDP, Personalization, RoundReport
from fedtt_lightning.federation import (
    ClientFailures,
    FixedPointCodec,
    PoissonSampler,
    PrivateMean,
    SecureMean,
    UniformSampler,
    generator_for,
)
from toy_run import ROUNDS, make_run


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


@pytest.mark.parametrize("own", [[], ["head"]], ids=["all shared", "own head"])
def test_only_what_travels_gets_noise_and_that_is_the_one_that_is_keyed(
    tmp_path: Path, own: list[str]
) -> None:
    """One round of FedTT+: what trains and travels moves by mean and noise, the rest not at all."""
    (_, plain, _), (trainer, module, _) = (
        run(
            tmp_path / str(noise),
            CentralDP(noise_multiplier=noise),
            PrivateMean(),
            extra=[Personalization(own)] if own else [],
            max_epochs=1,
        )
        for noise in (0.0, 0.8)
    )
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    drawn = torch.from_numpy(
        generator_for(11, "central noise", 0).standard_normal(loop.travelling.numel)
    )
    moved = [
        (trained(module)[name] - trained(plain)[name]).reshape(-1) for name in loop.travelling.names
    ]
    torch.testing.assert_close(torch.cat(moved), drawn * 0.8 / 3, rtol=1e-9, atol=1e-12)
    still = trained(module).keys() - {*loop.travelling.names}
    assert len(still) == 2 + 2 * len(own)  # two factors; weight and bias of the head
    assert all(torch.equal(trained(module)[name], trained(plain)[name]) for name in still)


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


@pytest.mark.parametrize("accountant", ["rdp", "prv", "gdp"])
@pytest.mark.filterwarnings("ignore:GDP accounting")
def test_epsilon_is_that_of_opacus(tmp_path: Path, accountant: Any) -> None:
    hidden, known = (CentralDP(noise_multiplier=1.2, accountant=accountant) for _ in range(2))
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
        for callback, rate, steps in ((hidden, 0.3, ROUNDS), (known, 1.0, came)):
            direct = create_accountant(accountant)
            for _ in range(steps):
                direct.step(noise_multiplier=1.2, sample_rate=rate)
            expected = direct.get_epsilon(1e-5) if steps else 0.0
            assert callback.ledger.epsilon(client) == pytest.approx(expected, rel=1e-9)
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
    dp, states = CentralDP(epsilon=3.0, noise_multiplier=1.2), States()
    options = {"federation": HIDDEN, "extra": [states], "max_epochs": 8}
    trainer, *_ = run(tmp_path, dp, PrivateMean(), **options)
    (last,) = {*trainer.callbacks[0].loop.planner.retired.values()}  # type: ignore[attr-defined]
    assert 0 < last < 7
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(states.rounds)]
    assert same == [round >= last for round in range(1, 8)]
    assert dp.ledger.largest() <= 3.0
    assert dp.ledger.history(0) == ((1.2, 0.3, last),)


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


def test_secure_sums_train_as_the_mean_does(tmp_path: Path) -> None:
    """Weighted by examples; the rounding is told."""
    examples = {"weighting": "examples"}
    rule = SecureMean(range=10.0, clients=3, max_weight=50, codec=FixedPointCodec(60))
    _, plain, _ = run(tmp_path / "a", None, None, federation=examples)
    trainer, module, _ = run(tmp_path / "b", None, rule, federation=examples)
    for name, value in trained(plain).items():
        torch.testing.assert_close(trained(module)[name], value, rtol=0, atol=1e-9)
    assert 0 < trainer.callback_metrics["secure/quantization_error"] < 1e-12


@pytest.mark.parametrize("private", [True, False])
def test_masks_change_no_bit_though_clients_drop_out(tmp_path: Path, private: bool) -> None:
    federation = {
        "sampler": UniformSampler(),
        "failures": ClientFailures(dropout_rate=0.4),
        "min_clients": 2,
    }
    outcomes = []
    for number, transport in enumerate((None, PairwiseMaskedSum(range(4)))):
        dp = CentralDP(noise_multiplier=1.0) if private else None
        rule = (
            PrivateMean(codec=FixedPointCodec(), transport=transport, **BITS)
            if private
            else SecureMean(range=10.0, clients=4, max_weight=50, transport=transport)
        )
        trainer, *_, result = run(tmp_path / str(number), dp, rule, federation=federation)
        outcomes.append(result)
    planner = trainer.callbacks[0].loop.planner  # type: ignore[attr-defined]
    assert any(planner.plan(round).dropped and planner.plan(round).visits for round in range(3))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["metrics"]["secure/quantization_error"] > 0


def test_both_kinds_of_privacy_keep_their_own_accounts(tmp_path: Path) -> None:
    local: dict[str, Any] = {"noise_multiplier": 0.9, "epsilon": 40.0}
    alone, beside = LocalDP(**local), LocalDP(**local)
    central, both = CentralDP(noise_multiplier=1.0), CentralDP(noise_multiplier=1.0)
    run(tmp_path / "a", None, None, extra=[alone], dropout=False)
    run(tmp_path / "b", central, PrivateMean())
    trainer, *_ = run(tmp_path / "c", both, PrivateMean(), extra=[beside], dropout=False)
    for client in range(4):
        assert beside.ledger.history(client) == alone.ledger.history(client)
        assert both.ledger.history(client) == central.ledger.history(client)
    metrics = trainer.callback_metrics
    assert metrics["dp/epsilon_max"] == pytest.approx(alone.ledger.largest())
    assert metrics["dp/central_epsilon_max"] == pytest.approx(central.ledger.largest())


def test_a_round_without_clients_is_told_as_one_of_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        tmp_path,
        CentralDP(noise_multiplier=1.0),
        PrivateMean(),
        federation=HIDDEN,
        extra=[RoundReport()],
    )
    text = capsys.readouterr().out
    assert "round 2/3 of noise alone: nobody was drawn" in text and "skipped" not in text
