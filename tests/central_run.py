"""Toy runs with central privacy: FedTT+, 4 clients of different size, 3 rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from fedtt_lightning.callbacks import CentralDP
from fedtt_lightning.federation import AggregationRule, PoissonSampler, UniformSampler
from toy import ToyModule
from toy_run import make_run, outcome

# Cohorts that nobody may know: client 0, then nobody, then 1, 2 and 3.
HIDDEN = {"weighting": "equal", "sampler": PoissonSampler(0.3)}
KNOWN = {"weighting": "equal", "sampler": UniformSampler(3)}
BITS: dict[str, Any] = {"quantile": 0.5, "bit_noise": 2.0}


def run(
    folder: Path, dp: CentralDP | None, rule: AggregationRule | None, **options: Any
) -> tuple[Trainer, ToyModule, dict[str, Any]]:
    """Fit and return the outcome too; `extra` callbacks come before `dp`."""
    federation = {**KNOWN, **options.pop("federation", {})}
    if rule is not None:
        federation["aggregation"] = rule
    checkpoint = options.pop("checkpoint", None)
    callbacks = [*options.pop("extra", []), *([dp] if dp else [])]
    dropout = options.pop("dropout", True)
    trainer, module, data, record = make_run(folder, *callbacks, federation=federation, **options)
    module.net.dropout.p *= dropout
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return trainer, module, outcome(module, record)


def trained(module: ToyModule) -> dict[str, Tensor]:
    """What is federated, live."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
