"""Checkpoints hold what cannot be had elsewhere, and fit only where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules import SequenceClassifier

METHODS: dict[str, Any] = {
    "tt": lambda: TTAdapterConfig(rank=3, bottleneck=16),
    "tt-rank-2": lambda: TTAdapterConfig(rank=2, bottleneck=16),
    "lora": lambda: peft.LoraConfig(r=4, target_modules=["query", "value"]),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3),
    "vera": lambda: peft.VeraConfig(r=8, target_modules=["query", "value"]),
    "all": lambda: None,
}


def build(bert: str, method: str, seed: int = 7, **changes: Any) -> SequenceClassifier:
    torch.manual_seed(seed)
    return SequenceClassifier(bert, METHODS[method](), lr=0.05, **changes)


def trainer(**changes: Any) -> Trainer:
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    options = {"accelerator": "cpu", "enable_checkpointing": False, "max_epochs": 1, **quiet}
    return Trainer(**(options | changes))


def train_and_save(module: SequenceClassifier, batch: dict[str, Tensor], file: Path) -> Path:
    runner = trainer()
    runner.fit(module, DataLoader([batch], batch_size=None))
    runner.save_checkpoint(file)
    return file


def validate(module: SequenceClassifier, batch: dict[str, Tensor], file: Path) -> Any:
    return trainer().validate(module, DataLoader([batch], batch_size=None), file, verbose=False)


@pytest.mark.parametrize("method", ["tt", "lora", "prompt", "vera", "all"])
def test_another_start_with_the_checkpoint_is_the_same_model(
    bert: str, batch: dict[str, Tensor], tmp_path: Path, method: str
) -> None:
    trained = build(bert, method)
    file = train_and_save(trained, batch, tmp_path / "x.ckpt")
    held = torch.load(file, weights_only=True)["state_dict"]
    frozen = [name for name in trained.state_dict() if name not in held]
    assert bool(frozen) == (method != "all")
    assert not any("word_embeddings" in name for name in held) or method == "all"
    other = build(bert, method, seed=8)
    validate(other, batch, file)
    expected = trained.state_dict()
    for name, value in other.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_file_is_small_and_its_frozen_weights_come_back(
    bert: str, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    trained = build(bert, "tt")
    file = train_and_save(trained, batch, tmp_path / "x.ckpt")
    total = sum(p.numel() for p in trained.parameters())
    fresh_and_adapter = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    held = torch.load(file, weights_only=True)["state_dict"]
    copies = trained.fresh_parameters  # PEFT keeps the head it copied
    assert sum(value.numel() for value in held.values()) == fresh_and_adapter + copies
    assert fresh_and_adapter + copies < total / 2
    loaded = SequenceClassifier.load_from_checkpoint(file, peft=METHODS["tt"]())
    assert loaded.hparams["backbone"] == bert
    for (name, a), b in zip(loaded.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
def test_precision_does_not_change_which_backbone_it_is(
    bert: str, batch: dict[str, Tensor], tmp_path: Path, precision: Any
) -> None:
    runner = trainer(precision=precision)
    runner.fit(build(bert, "lora"), DataLoader([batch], batch_size=None))
    runner.save_checkpoint(tmp_path / "x.ckpt")
    validate(build(bert, "lora"), batch, tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("saved", "loading", "changes", "named"),
    [
        ("tt", "lora", {}, ["lora_A", "core_0", "model.peft"]),
        ("lora", "all", {}, ["lora_A", "model.peft"]),
        ("all", "tt", {}, ["core_0"]),
        ("tt", "tt-rank-2", {}, ["has shape", "core_0"]),
        ("tt", "tt", {"num_labels": 3}, ["classifier", "num_labels"]),
    ],
)
def test_checkpoint_of_another_method_says_what_differs(
    bert: str,
    batch: dict[str, Tensor],
    tmp_path: Path,
    saved: str,
    loading: str,
    changes: Any,
    named: list[str],
) -> None:
    file = train_and_save(build(bert, saved), batch, tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match="another model or method") as caught:
        validate(build(bert, loading, **changes), batch, file)
    message = str(caught.value)
    assert "\n" not in message
    for word in named:
        assert word in message


def test_checkpoint_of_another_backbone_is_refused(
    bert: str, other_bert: str, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    file = train_and_save(build(bert, "tt"), batch, tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match="another backbone"):
        validate(build(other_bert, "tt"), batch, file)


def test_training_goes_on_from_a_checkpoint(
    bert: str, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    def start(seed: int) -> SequenceClassifier:
        module = build(bert, "tt", seed)
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0  # its draws are not in a plain checkpoint
        return module

    data = DataLoader([batch], batch_size=None)
    whole = start(seed=7)
    trainer(max_epochs=4).fit(whole, data)
    file = train_and_save(start(seed=7), batch, tmp_path / "x.ckpt")
    resumed = start(seed=9)
    trainer(max_epochs=4).fit(resumed, data, ckpt_path=file)
    for (name, a), b in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b), name
