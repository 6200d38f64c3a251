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
    FixedSampler,
    RandomFactor,
    UniformSampler,
)
from toy_run import At, make_run, outcome

METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "adaptive factor": lambda: {"schedule": AdaptiveFactor()},
    "random factors": lambda: {"schedule": RandomFactor(count=2)},
    "equal weights": lambda: {"federation": {"weighting": "equal"}},
    "fixed sampler": lambda: {"federation": {"sampler": FixedSampler([2, 0])}},
    "failures": lambda: {
        "federation": {
            "sampler": UniformSampler(),
            "failures": ClientFailures(dropout_rate=0.3, deadline=6.0, slowness=1.0),
        }
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_goes_on_inside_visits(method: str, tmp_path: Path) -> None:
    """Saved in the first, a middle and the last round: inside a visit, and between two."""
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
    for batch in {batches[1], batches[len(batches) // 2], batches[-2]}:
        run = make_run(tmp_path / f"resumed{batch}", **METHODS[method]())
        trainer, module, data, record = run
        trainer.fit(module, datamodule=data, ckpt_path=saved[batch])
        assert outcome(module, record) == expected, batch
