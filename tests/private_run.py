"""The toy run of `toy_run`, trained privately: with LocalDP and without dropout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from fedtt_lightning import FederatedDataModule
from fedtt_lightning.callbacks import LocalDP
from toy import ToyModule
from toy_run import Record, make_run, one_cycle, outcome


def private_run(
    folder: Path,
    *extra: Callback,
    dp: dict[str, Any] | LocalDP | None = None,
    module: type[ToyModule] = ToyModule,
    configure: Any = one_cycle,
    **options: Any,
) -> tuple[Trainer, ToyModule, FederatedDataModule, Record]:
    """Build it with LocalDP's arguments `dp`, and `options` as `make_run` takes them."""
    private = dp if isinstance(dp, LocalDP) else LocalDP(**{"noise_multiplier": 0.7, **(dp or {})})
    trainer, toy, data, record = make_run(folder, private, *extra, **options)
    if module is not ToyModule or configure is not one_cycle:
        torch.manual_seed(3)
        toy = module(configure).double()
    toy.net.dropout.p = 0.0
    return trainer, toy, data, record


def local_dp(trainer: Trainer) -> LocalDP:
    return next(c for c in trainer.callbacks if isinstance(c, LocalDP))  # type: ignore[attr-defined]


def private_outcome(trainer: Trainer, module: ToyModule, record: Record) -> dict[str, Any]:
    """What two equal runs agree on, with every client's account, as JSON would give it."""
    ledger = local_dp(trainer).ledger
    found = {**outcome(module, record), "ledger": ledger.state_dict()}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def private_run_to_file(folder: Path, result: Path, *extra: Callback, **options: Any) -> None:
    """Fit from the last checkpoint, if there is one, and write the outcome."""
    trainer, module, data, record = private_run(folder, *extra, **options)
    trainer.fit(module, datamodule=data, ckpt_path="last")
    result.write_text(json.dumps(private_outcome(trainer, module, record)))
