"""Federated FedTT+ and local privacy on a causal language model equal plain PyTorch loops."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from answer_rows import Row, answer_rows, packed, padded, plain_loss
from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.callbacks import LocalDP
from fedtt_lightning.data import BySize
from fedtt_lightning.errors import ConfigError, FedTTError
from fedtt_lightning.modules import CausalLM
from plain_federation import PlainFederation
from plain_private import PlainPrivateFederation
from quiet_trainer import quiet_trainer

ROWS = answer_rows(18, seed=9)


class Rows(LightningDataModule):
    def __init__(self, collate: Callable[[Any], Any], rows: list[Row]) -> None:
        super().__init__()
        self.collate, self.rows = collate, rows

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=3, shuffle=True, collate_fn=self.collate)  # type: ignore[arg-type]


def federated(
    collate: Callable[[Any], Any] = padded, rows: list[Row] = ROWS
) -> FederatedDataModule:
    return FederatedDataModule(Rows(collate, rows), clients=3, partition=BySize([1, 2, 3]))


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, fused=True)


def build(folder: str, **options: Any) -> tuple[CausalLM, nn.Module]:
    """The module and a copy of its model, in float64."""
    torch.manual_seed(3)
    config = TTAdapterConfig(rank=2, bottleneck=8, init="loretta")
    module = CausalLM(folder, config, lr=0.01, weight_decay=0.1, dtype="float32", **options)
    return module, deepcopy(module.model).double()


def frozen_by_rotation(names: list[str]) -> Any:
    """FedTT+: of each adapter half the first factor, the last and one in turn train."""

    def frozen(round: int) -> set[str]:
        halves: dict[str, list[str]] = {}
        for name in names:
            if "core_" in name:
                halves.setdefault(name.rsplit("core_", 1)[0], []).append(name)
        return {
            name
            for cores in halves.values()
            for i, name in enumerate(sorted(cores))
            if i not in (0, len(cores) - 1, 1 + round % (len(cores) - 2))
        }

    return frozen


def compare(module: CausalLM, expected: dict[str, torch.Tensor], start: nn.Module) -> None:
    assert sum("core_" in name for name in expected) > 10
    for name, value in expected.items():
        found = module.model.get_parameter(name)
        torch.testing.assert_close(found.detach(), value, rtol=1e-6, atol=1e-7, msg=name)
        assert not torch.equal(value, start.get_parameter(name)), f"{name} was not trained"


@pytest.mark.parametrize(("family", "layout"), [("llama", "padded"), ("gpt2", "packed")])
def test_fedtt_plus_equals_a_plain_loop(
    decoder: Callable[..., str], family: str, layout: str, tmp_path: Path
) -> None:
    dropout = (
        {} if family == "llama" else dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    )
    module, reference = build(decoder(family, **dropout))
    start = deepcopy(reference)
    data = federated(padded if layout == "padded" else lambda rows: packed(rows, 24))
    callbacks = [FederatedRounds(seed=5, local_epochs=2), FactorFreezing()]
    quiet_trainer(tmp_path, 3, callbacks, gradient_clip_val=0.5).fit(module, datamodule=data)
    names = [name for name, p in reference.named_parameters() if p.requires_grad]
    plain = PlainFederation(
        experiment=5,
        clients=[data.clients[i] for i in range(3)],
        rounds=3,
        batch_size=3,
        configure=adamw,
        local_epochs=2,
        clip=0.5,
        frozen=frozen_by_rotation(names),
    )
    expected = plain.run(reference, lambda net, batch: plain_loss(net, [ROWS[i] for i in batch]))
    compare(module, expected, start)


class Descending(CausalLM):
    """By SGD: Adam takes steps of the same length however small a gradient is."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def test_clients_side_by_side_learn_what_they_learn_alone(
    decoder: Callable[..., str], tmp_path: Path
) -> None:
    """In half precision too, where their gradients differ by rounding."""
    spread = decoder("llama", initializer_range=0.5, num_hidden_layers=8)
    for folder, dtype, bound in ((decoder("llama"), "float32", 1e-5), (spread, "bfloat16", 0.2)):
        moves = []
        for size in (1, 3):
            torch.manual_seed(3)
            config = TTAdapterConfig(rank=2, bottleneck=8)
            module = Descending(folder, config, dtype=dtype)  # type: ignore[arg-type]
            start = {name: p.detach().clone() for name, p in module.named_parameters()}
            rounds = FederatedRounds(seed=5, cohort_batch=size)
            trainer = quiet_trainer(tmp_path, 1, [rounds], precision="32-true")
            trainer.fit(module, datamodule=federated(rows=answer_rows(18, seed=27, longest=38)))
            ends = dict(module.named_parameters())
            moves.append(torch.cat([(ends[n] - start[n]).flatten() for n in ends]))
        alone, together = moves
        error = (together - alone).norm() / alone.norm()
        assert error < bound


def test_packed_rows_keep_clients_apart(decoder: Callable[..., str], tmp_path: Path) -> None:
    data = federated(lambda rows: packed(rows, 24))
    data.packing = True  # type: ignore[attr-defined]
    trainer = quiet_trainer(tmp_path, 1, [FederatedRounds(cohort_batch=3)])
    with pytest.raises(FedTTError, match=r"data\.packing.*federation\.cohort_batch 1"):
        trainer.fit(build(decoder("llama"))[0], datamodule=data)


def test_data_too_long_are_refused_before_training(
    decoder: Callable[..., str], tmp_path: Path
) -> None:
    data = federated()
    data.max_length = 41  # type: ignore[attr-defined]
    trainer = quiet_trainer(tmp_path, 1, [FederatedRounds()])
    with pytest.raises(ConfigError, match=r"data\.max_length 41 is more than the 40 positions"):
        trainer.fit(build(decoder("llama"))[0], datamodule=data)
    assert trainer.global_step == 0


def test_private_steps_equal_a_plain_loop(decoder: Callable[..., str], tmp_path: Path) -> None:
    module, reference = build(decoder("llama"))
    start = deepcopy(reference)
    data = federated()
    callbacks = [FederatedRounds(seed=5), LocalDP(noise_multiplier=0.7, clip=0.5)]
    quiet_trainer(tmp_path, 1, callbacks).fit(module, datamodule=data)
    plain = PlainPrivateFederation(
        experiment=5,
        clients=[data.clients[i] for i in range(3)],
        rounds=1,
        batch_size=3,
        configure=adamw,
        noise=0.7,
        bound=0.5,
    )
    expected = plain.run(reference, lambda net, batch: plain_loss(net, [ROWS[i] for i in batch]))
    compare(module, expected, start)


def test_private_steps_on_a_half_precision_backbone(
    decoder: Callable[..., str], tmp_path: Path
) -> None:
    """Rounding alone makes the loss of a batch another than the mean of its examples' losses."""
    folder = decoder("llama", initializer_range=0.5, num_hidden_layers=8)
    module = CausalLM(folder, TTAdapterConfig(rank=2, bottleneck=8), lr=0.01)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    callbacks = [FederatedRounds(seed=5), LocalDP(noise_multiplier=0.7)]
    trainer = quiet_trainer(tmp_path, 1, callbacks, precision="32-true")
    trainer.fit(module, datamodule=federated(rows=answer_rows(18, seed=27, longest=38)))
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("told", [False, True])
def test_privacy_refuses_packed_rows(
    decoder: Callable[..., str], told: bool, tmp_path: Path
) -> None:
    """A row holds several examples, so no gradient of one can be clipped."""
    module, _ = build(decoder("llama"))
    callbacks = [FederatedRounds(seed=5), LocalDP(noise_multiplier=0.7)]
    data = federated(lambda rows: packed(rows, 24))
    data.packing = told  # type: ignore[attr-defined]
    message = r"data\.packing" if told else "gradient of each of the batch's 2 examples"
    with pytest.raises(FedTTError, match=message):
        quiet_trainer(tmp_path, 1, callbacks).fit(module, datamodule=data)


class Summed(CausalLM):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.likelihood(batch).mean().sum()


def test_a_sum_is_refused_in_half_precision_too(
    decoder: Callable[..., str], tmp_path: Path
) -> None:
    module = Summed(decoder("llama"), TTAdapterConfig(rank=2, bottleneck=8))
    callbacks = [FederatedRounds(seed=5), LocalDP(noise_multiplier=0.7)]
    trainer = quiet_trainer(tmp_path, 1, callbacks, precision="32-true")
    with pytest.raises(FedTTError, match="mean over examples"):
        trainer.fit(module, datamodule=federated())
