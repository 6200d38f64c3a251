"""Real adapters in a real encoder with dropout: side by side equals the plain loop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import BertConfig, BertModel

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds, TTAdapterConfig
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import FFALoRA
from plain_federation import PlainFederation
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule

MODES: Any = {"down_modes": [4, 4, 2, 4], "up_modes": [2, 4, 4, 4]}
METHODS: dict[str, Any] = {
    "FedTT": TTAdapterConfig(rank=2, bottleneck=8, train_layernorms=True, dropout=0.2, **MODES),
    "dense adapters": TTAdapterConfig(tensorized=False, bottleneck=4, dropout=0.2),
    "LoRA": LoraConfig(r=2, lora_dropout=0.2),
    "(IA)3": IA3Config(),
    "everything": None,
}


class Encoder(nn.Module):
    def __init__(self, peft: Any, attention: str = "sdpa") -> None:
        super().__init__()
        sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 40}
        config = BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)
        bert: Any = BertModel._from_config(config, attn_implementation=attention)
        self.bert = bert if peft is None else get_peft_model(bert, peft)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bert(input_ids=tokens).last_hidden_state[:, 0])


class Texts(ToyData):
    def setup(self, stage: str) -> None:
        tokens = torch.randint(1, 40, (46, 7), generator=torch.Generator().manual_seed(1))
        self.train = TensorDataset(tokens, (tokens[:, 1] > tokens[:, 2]).long())


def compare(folder: Path, net: nn.Module, *callbacks: Any, frozen: Any = None) -> None:
    module = ToyModule()
    module.net = net.train()  # type: ignore[assignment]
    module = module.double()
    reference = copy.deepcopy(module.net)
    data = FederatedDataModule(Texts(), clients=3, partition=BySize([2, 3, 4]))
    rounds = FederatedRounds(seed=5, local_epochs=2, cohort_batch=3)
    trainer = quiet_trainer(folder, 2, [rounds, *callbacks], gradient_clip_val=0.5)
    trainer.fit(module, datamodule=data)

    tokens, labels = data.inner.train.tensors
    start = {name: p.detach().clone() for name, p in reference.named_parameters()}
    plain = PlainFederation(
        experiment=5,
        clients=[data.clients[i] for i in range(3)],
        rounds=2,
        batch_size=4,
        configure=lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
        local_epochs=2,
        clip=0.5,
        **({} if frozen is None else {"frozen": frozen}),
    )
    expected = plain.run(
        reference, lambda net, batch: nn.functional.cross_entropy(net(tokens[batch]), labels[batch])
    )
    moved = 0
    for name, value in expected.items():
        actual = module.net.get_parameter(name).detach()
        torch.testing.assert_close(actual, value, rtol=0, atol=1e-11, msg=name)
        moved += not torch.equal(actual, start[name])
    assert moved > 4


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_equals_plain_pytorch(method: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    compare(tmp_path, Encoder(method))


def test_attention_that_drops_weights_by_itself(tmp_path: Path) -> None:
    torch.manual_seed(3)
    compare(tmp_path, Encoder(METHODS["FedTT"], "eager"))


def test_fedtt_plus(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = Encoder(METHODS["FedTT"])
    names = [name for name, p in net.named_parameters() if p.requires_grad and "core_" in name]

    def frozen(round: int) -> set[str]:
        """Written anew: of each group's factors the first, the last and one in turn train."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.rsplit("core_", 1)[0], []).append(name)
        return {
            name
            for group in groups.values()
            for i, name in enumerate(sorted(group))
            if i not in (0, len(group) - 1, 1 + round % (len(group) - 2))
        }

    compare(tmp_path, net, FactorFreezing(), frozen=frozen)


def test_ffa_lora(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = Encoder(METHODS["LoRA"])
    names = {name for name, _ in net.named_parameters() if "lora_A" in name}
    compare(tmp_path, net, FactorFreezing(FFALoRA()), frozen=lambda round: names)


@pytest.mark.parametrize("method", ["FedTT", "LoRA"])
def test_mixed_precision(method: str, tmp_path: Path) -> None:
    """bfloat16 rounds to three digits, other shapes differently."""
    trained = []
    for cohort_batch in (1, 3):
        torch.manual_seed(3)
        module = ToyModule(lambda p: torch.optim.SGD(p, lr=0.1))
        module.net = Encoder(METHODS[method]).train()  # type: ignore[assignment]
        start = [p.detach().clone() for p in module.parameters() if p.requires_grad]
        data = FederatedDataModule(Texts(), clients=3, partition=BySize([2, 3, 4]))
        rounds = FederatedRounds(seed=5, cohort_batch=cohort_batch)
        quiet_trainer(tmp_path, 1, [rounds], precision="bf16-mixed").fit(module, datamodule=data)
        after = [p.detach() for p in module.parameters() if p.requires_grad]
        trained.append(torch.cat([(a - b).flatten() for a, b in zip(after, start, strict=True)]))
    alone, beside = trained
    assert alone.norm() > 0.01
    assert (beside - alone).norm() < 0.03 * alone.norm()
