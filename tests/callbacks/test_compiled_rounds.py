"""A module handed to Trainer.fit through torch.compile is federated like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from fedtt_lightning import FactorFreezing, TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from plain_federation import PlainFederation
from private_text import PrivateText


def test_compiled_module_equals_plain_pytorch(tmp_path: Path) -> None:
    """With FedTT+, whose frozen factors keep requiring gradients and so need no other graph."""
    torch.compiler.reset()
    config = TTAdapterConfig(
        rank=2, bottleneck=8, down_modes=[4, 4, 2, 2, 4], up_modes=[2, 4, 4, 4, 2]
    )
    run = PrivateText(tmp_path, config, FactorFreezing(), limit_val_batches=0)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run.module, backend=counter)
    run.trainer.fit(compiled, datamodule=run.data)  # type: ignore[arg-type]
    assert counter.frame_count > 0

    names = [name for name, p in run.before.named_parameters() if p.requires_grad]

    def frozen(round: int) -> set[str]:
        """FedTT+, written anew, of tensor trains that have five factors."""
        ends = tuple(f"core_{i}" for i in (1, 2, 3) if i != 1 + round % 3)
        return {name for name in names if name.endswith(ends)}

    for name, value in run.plain(PlainFederation, frozen=frozen).items():
        actual = run.module.net.get_parameter(name)
        torch.testing.assert_close(actual, value, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("part", [False, True], ids=["module", "part of it"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"federation": {"cohort_batch": 2}}, r"ToyModule is compiled.*federation.cohort_batch 1"),
        ({"dp": {"noise_multiplier": 1.0}}, r"ToyModule is compiled.*leave torch.compile out"),
    ],
    ids=["side by side", "local DP"],
)
def test_refused_where_gradients_are_taken_apart(
    options: dict[str, Any], message: str, part: bool, tmp_path: Path
) -> None:
    config = TTAdapterConfig(tensorized=False, bottleneck=8)
    run = PrivateText(tmp_path, config, **options)
    if part:
        run.module.net.compile()
    module: Any = run.module if part else torch.compile(run.module)
    with pytest.raises(ConfigError, match=message):
        run.trainer.fit(module, datamodule=run.data)
