"""What is compared between processes and runs does not depend on where objects lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Linear
from torch.optim import SGD

from fedtt_lightning.callbacks.agreement import optimizer_options
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import WeightedMean
from fedtt_lightning.federation.codecs import Float16
from toy_run import make_run


class Note:
    """An object of a user's own, whose `repr` is where it lies."""


class NotedCodec(Float16):
    def __init__(self) -> None:
        super().__init__()
        self.note = Note()


class NotedRule(WeightedMean):
    def __init__(self, trust: float = 1.0) -> None:
        super().__init__()
        self.note, self.trust = Note(), trust


def options(lr: Any) -> str:
    optimizer = SGD(Linear(2, 2).parameters(), lr=lr)
    optimizer.param_groups[0]["note"] = Note()
    return optimizer_options([optimizer])


def test_options_are_values_wherever_they_lie() -> None:
    assert options(torch.tensor(0.5)) == options(0.5)
    assert options(torch.tensor(0.25)) != options(0.5)


def test_a_run_goes_on_with_objects_of_a_users_own(tmp_path: Path) -> None:
    def fit(rounds: int, **settings: Any) -> None:
        federation = {"upload": NotedCodec(), "aggregation": NotedRule(**settings)}
        trainer, module, data, _ = make_run(tmp_path, federation=federation, max_epochs=rounds)
        trainer.fit(module, datamodule=data, ckpt_path="last" if rounds > 1 else None)

    fit(1)
    fit(2)
    with pytest.raises(ConfigError, match=r"NotedRule\(.*trust=1.0.*same federation.aggregation"):
        fit(3, trust=0.5)
