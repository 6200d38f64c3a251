"""Every rule, server, sampler and schedule goes on from inside a visit as if never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from fedtt_lightning.federation import (
    AdaptiveFactor,
    ClientFailures,
    CoordinateMedian,
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedYogi,
    FixedSampler,
    Krum,
    MultiKrum,
    NormBoundedMean,
    PoissonSampler,
    RandomFactor,
    SizeWeightedSampler,
    TrimmedMean,
    UniformSampler,
)
from toy_run import At, make_run, outcome

METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "adaptive factor": lambda: {"schedule": AdaptiveFactor()},
    "random factors": lambda: {"schedule": RandomFactor(count=2)},
    "equal weights": lambda: {"federation": {"weighting": "equal"}},
    "fixed sampler": lambda: {"federation": {"sampler": FixedSampler([2, 0])}},
    "Poisson sampler": lambda: {"federation": {"sampler": PoissonSampler(0.7)}},
    "sampler by size": lambda: {"federation": {"sampler": SizeWeightedSampler(2)}},
    **{
        type(server).__name__: lambda server=server: {"federation": {"server": server}}
        for server in (FedAvgM(), FedAdagrad(), FedAdam(), FedYogi())
    },
    **{
        type(rule).__name__: lambda rule=rule: {
            "federation": {"aggregation": rule, "sampler": UniformSampler()}
        }
        for rule in (
            CoordinateMedian(),
            TrimmedMean(1),
            Krum(0),
            MultiKrum(0, keep=2),
            NormBoundedMean(0.05),
        )
    },
    "failures": lambda: {
        "federation": {
            "sampler": UniformSampler(),
            "failures": ClientFailures(dropout_rate=0.3, deadline=6.0, slowness=1.0),
        }
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_goes_on_inside_visits(method: str, tmp_path: Path) -> None:
    """Saved inside the first visit and before the last batch."""
    saved: dict[int, Path] = {}

    def save(trainer: Trainer) -> None:
        loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
        if loop.is_open:
            batch = trainer.fit_loop.total_batch_idx
            saved[batch] = tmp_path / f"{batch}.ckpt"
            trainer.save_checkpoint(saved[batch])

    savers = [At(batch, save, end=True) for batch in range(200)]
    trainer, module, data, record = make_run(tmp_path / "whole", *savers, **METHODS[method]())
    trainer.fit(module, datamodule=data)
    expected = outcome(module, record)
    batches = sorted(saved)
    for batch in (batches[1], batches[-2]):
        run = make_run(tmp_path / f"resumed{batch}", **METHODS[method]())
        trainer, module, data, record = run
        trainer.fit(module, datamodule=data, ckpt_path=saved[batch])
        assert outcome(module, record) == expected, batch


def test_a_second_fit_begins_afresh(tmp_path: Path) -> None:
    """Servers and schedules that learn forget what an earlier fit with the same objects taught."""
    options = {"federation": {"server": FedAdam(lr=0.1)}, "schedule": AdaptiveFactor()}
    outcomes = []
    for number in range(2):
        trainer, module, data, record = make_run(tmp_path / str(number), **options)
        trainer.fit(module, datamodule=data)
        outcomes.append(outcome(module, record))
    assert outcomes[0] == outcomes[1]
