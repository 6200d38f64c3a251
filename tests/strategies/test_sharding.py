"""What cannot be sharded is refused in one line, before any process waits for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.torch_version import TorchVersion

from fedtt_lightning.callbacks import ClientEvaluation, LoRAMerging
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.strategies import ShardedBackbone
from fedtt_lightning.strategies.sharding import shard_frozen
from quiet_trainer import quiet_trainer
from tiny_models import DECODERS, language_model

NO_MESH: Any = None


def quantized() -> nn.Module:
    model = peft.get_peft_model(language_model("llama"), peft.LoraConfig(r=2))
    linear = model.base_model.model.model.layers[1].self_attn.k_proj
    linear.weight = nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    return model


@pytest.mark.parametrize("family", DECODERS)
def test_weights_that_train(family: str) -> None:
    """So the blocks of every family are found."""
    refused(language_model(family), r"all blocks train: set model\.peft")


def test_other_modules_and_weights() -> None:
    refused(nn.Linear(2, 2), "Linear has none")
    refused(quantized(), r"set model\.quantization to null")


def refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        shard_frozen(module, NO_MESH)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["2.6.0", "2.6.1+cu124"])
def test_an_older_torch(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    with pytest.raises(ConfigError, match=r"ShardedBackbone needs torch>=2\.7.* 2\.6\."):
        ShardedBackbone().setup(quiet_trainer(tmp_path, 1, []))


@pytest.mark.parametrize("callback", [ClientEvaluation(), LoRAMerging()])
def test_callbacks_that_processes_cannot_share(callback: Callback, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, 1, [callback])
    with pytest.raises(ConfigError, match=f"{type(callback).__name__} in trainer.callbacks"):
        ShardedBackbone().setup(trainer)
