"""Real TT adapters in a real encoder: Lightning's rounds equal the plain loop's to the last bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import BertConfig, BertModel

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds, TTAdapterConfig
from fedtt_lightning.data import LabelShares
from plain_federation import PlainFederation
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 40}
        bert = BertModel(BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes))
        modes = {"down_modes": [4, 4, 2, 4], "up_modes": [2, 4, 4, 4]}
        config = TTAdapterConfig(rank=2, bottleneck=8, train_layernorms=True, **modes)  # type: ignore[arg-type]
        self.bert = get_peft_model(bert, config)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bert(input_ids=tokens).last_hidden_state[:, 0])


class Texts(ToyData):
    def setup(self, stage: str) -> None:
        tokens = torch.randint(1, 40, (60, 7), generator=torch.Generator().manual_seed(1))
        self.train = TensorDataset(tokens, (tokens[:, 1] > tokens[:, 2]).long())


def frozen_by_rotation(names: list[str]) -> Any:
    """FedTT+, written anew: of each group's factors the first, the last and one in turn train."""

    def frozen(round: int) -> set[str]:
        groups: dict[str, list[str]] = {}
        for name in names:
            if "core_" in name:
                groups.setdefault(name.rsplit("core_", 1)[0], []).append(name)
        return {
            name
            for group in groups.values()
            for i, name in enumerate(sorted(group))
            if i not in (0, len(group) - 1, 1 + round % (len(group) - 2))
        }

    return frozen


@pytest.mark.parametrize("plus", [False, True], ids=["FedTT", "FedTT+"])
def test_equals_plain_pytorch(plus: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = ToyModule()
    module.net = Encoder().train()  # type: ignore[assignment]
    module = module.double()
    reference = copy.deepcopy(module.net)
    data = FederatedDataModule(Texts(), clients=3, partition=LabelShares(level="severe"))
    trainer = quiet_trainer(
        tmp_path,
        3,
        [FederatedRounds(seed=5, local_epochs=2), *([FactorFreezing()] if plus else [])],
        gradient_clip_val=0.5,
    )
    trainer.fit(module, datamodule=data)

    tokens, labels = data.inner.train.tensors
    names = [name for name, p in reference.named_parameters() if p.requires_grad]
    plain = PlainFederation(
        experiment=5,
        clients=[data.clients[i] for i in range(3)],
        rounds=3,
        batch_size=4,
        configure=lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
        local_epochs=2,
        clip=0.5,
        **({"frozen": frozen_by_rotation(names)} if plus else {}),
    )
    start = {name: p.detach().clone() for name, p in reference.named_parameters()}
    expected = plain.run(
        reference, lambda net, batch: nn.functional.cross_entropy(net(tokens[batch]), labels[batch])
    )
    assert sum("core_" in name for name in expected) > 20
    for name, value in expected.items():
        assert torch.equal(module.net.get_parameter(name), value), name
        assert not torch.equal(value, start[name]), f"{name} was not trained"
