"""The baselines in a tiny BERT: Lightning's rounds equal the plain loop's to the last bit."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel

from fedtt_lightning import (
    FactorFreezing,
    FederatedDataModule,
    FederatedRounds,
    SequenceClassifier,
    TTAdapterConfig,
)
from fedtt_lightning.data import LabelShares
from fedtt_lightning.federation import AdaptiveFactor, FFALoRA, FreezingSchedule, RoLoRA
from plain_federation import PlainFederation
from quiet_trainer import quiet_trainer

ROUNDS = 3
LORA = peft.LoraConfig(r=2, lora_dropout=0.1)
MODES = {"down_modes": [4, 4, 2, 4], "up_modes": [2, 4, 4, 4]}
TT = TTAdapterConfig(rank=2, bottleneck=8, **MODES)  # type: ignore[arg-type]
DENSE = TTAdapterConfig(tensorized=False, bottleneck=8, dropout=0.1)
PROMPT = peft.PromptTuningConfig(num_virtual_tokens=3)
PREFIX = peft.PrefixTuningConfig(num_virtual_tokens=3)

Frozen = Callable[[int], set[str]]


def nothing(parameters: dict[str, nn.Parameter]) -> Frozen:
    return lambda round: set()


def frozen_a(parameters: dict[str, nn.Parameter]) -> Frozen:
    """FFA-LoRA, written anew."""
    return lambda round: {name for name in parameters if "lora_A" in name}


def frozen_in_turn(parameters: dict[str, nn.Parameter]) -> Frozen:
    """RoLoRA, written anew: the first round trains B, the second A."""
    return lambda round: {n for n in parameters if f"lora_{'AB'[round % 2]}" in n}


def frozen_by_norm(parameters: dict[str, nn.Parameter]) -> Frozen:
    """Adaptive FedTT+, written anew: norms are of how the global factors changed."""
    trains: dict[str, list[str]] = {}
    for name in sorted(name for name in parameters if "core_" in name):
        trains.setdefault(name.rsplit("core_", 1)[0], []).append(name)
    middles = {prefix: factors[1:-1] for prefix, factors in trains.items()}
    norms: dict[str, float] = {}
    rounds: list[set[str]] = []
    before: dict[str, Tensor] = {}

    def frozen(round: int) -> set[str]:
        if round == len(rounds):  # asked first when the parameters are the global ones
            now = {name: p.detach().clone() for name, p in parameters.items()}
            trained = before.keys() - rounds[-1] if rounds else set()
            norms.update({name: float((now[name] - before[name]).norm()) for name in trained})
            before.update(now)
            stays = set()
            for factors in middles.values():
                fresh = [name for name in factors if name not in norms]
                best = fresh[0] if fresh else max(factors, key=norms.__getitem__)
                stays |= set(factors) - {best}
            rounds.append(stays)
        return rounds[round]

    return frozen


CASES: dict[str, tuple[dict[str, Any], FreezingSchedule | None, Any, str]] = {
    "LoRA": ({"peft": LORA}, None, nothing, r"lora_[AB]"),
    "FFA-LoRA": ({"peft": LORA}, FFALoRA(), frozen_a, "lora_B"),
    "RoLoRA": ({"peft": LORA}, RoLoRA(), frozen_in_turn, "lora_[AB]"),
    "dense adapter": ({"peft": DENSE}, None, nothing, r"(down|up)_(weight|bias)"),
    "adaptive FedTT+": ({"peft": TT}, AdaptiveFactor(), frozen_by_norm, "core_|_bias"),
    "head only": ({"trainable": []}, None, nothing, r"(?!)"),
    "BitFit": ({"trainable": [r"\.bias$"]}, None, nothing, r"\.bias$"),
    "full": ({}, None, nothing, "."),
    "(IA)3": ({"peft": peft.IA3Config()}, None, nothing, "ia3_l"),
    "prompt tuning": ({"peft": PROMPT}, None, nothing, "prompt_encoder"),
    "prefix tuning": ({"peft": PREFIX}, None, nothing, "prompt_encoder"),
}


class Texts(LightningDataModule):
    """60 texts of 7 tokens."""

    def setup(self, stage: str) -> None:
        tokens = torch.randint(1, 40, (60, 7), generator=torch.Generator().manual_seed(1))
        labels = (tokens[:, 1] > tokens[:, 2]).long()
        self.train = [
            {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": label}
            for row, label in zip(tokens, labels, strict=True)
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=4, shuffle=True)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 40}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_plain_pytorch(bert: str, case: Any, tmp_path: Path) -> None:
    options, schedule, make_frozen, method = case
    torch.manual_seed(3)
    module = SequenceClassifier(bert, lr=0.02, weight_decay=0.1, **options).double()
    plain_model = copy.deepcopy(module.model)
    data = FederatedDataModule(Texts(), clients=3, partition=LabelShares(level="severe"))
    trainer = quiet_trainer(
        tmp_path,
        ROUNDS,
        [FederatedRounds(seed=5), *([FactorFreezing(schedule)] if schedule else [])],
    )
    trainer.fit(module, datamodule=data)

    rows = data.inner.train  # type: ignore[attr-defined]
    parameters = {name: p for name, p in plain_model.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in plain_model.named_parameters()}
    frozen = make_frozen(parameters)
    federation = PlainFederation(
        experiment=5,
        clients=[data.clients[i] for i in range(3)],
        rounds=ROUNDS,
        batch_size=4,
        configure=lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1, fused=True),
        frozen=frozen,
    )

    def loss(net: nn.Module, batch: list[int]) -> Tensor:
        return net(**{key: torch.stack([rows[i][key] for i in batch]) for key in rows[0]}).loss

    expected = federation.run(plain_model, loss)
    moved = set()
    for name, before in start.items():
        value = module.model.get_parameter(name).detach()
        assert torch.equal(value, expected.get(name, before)), name
        if not torch.equal(value, before):
            moved.add(name)
    trained = {name for name in start if ".original_module." not in name}  # PEFT trains copies
    head = {name for name in trained if re.search("pooler|classifier", name)}
    assert moved == head | {name for name in start if re.search(method, name)}
