"""Clients of rank 1 and 8 in one federation: they train, resume, and their bytes are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from peft import LoraConfig, get_peft_model
from safetensors.torch import save
from torch import Tensor, nn

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds
from fedtt_lightning.adapters.modules import TTAdapter
from fedtt_lightning.callbacks import Communication
from fedtt_lightning.data import BySize
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AggregationRule,
    FlexLoRA,
    HetLoRA,
    RankColumn,
    RankList,
    TTRounding,
    UniformSampler,
)
from fedtt_lightning.tensor_train import TTShape
from plain_federation import PlainFederation
from toy import FEATURES, ToyData, ToyModule
from toy_run import At, Record, outcome

RANKS = (1, 8)


def tt_net(rank: int) -> nn.Module:
    down, up = TTShape((4, 4), (2, 2, 2)), TTShape((2, 2, 2), (4, 4))
    backbone = nn.Linear(FEATURES, 16).requires_grad_(False)
    return nn.Sequential(backbone, TTAdapter(down, up, rank), nn.Tanh(), nn.Linear(16, 2))


def lora_net(rank: int) -> nn.Module:
    layers = [nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 14), nn.Tanh(), nn.Linear(14, 2)]
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=["0", "2"], modules_to_save=["4"]
    )
    return get_peft_model(nn.Sequential(*layers), config)  # type: ignore[arg-type]


CASES: dict[str, tuple[Callable[[], AggregationRule], Callable[[int], nn.Module], bool]] = {
    "TTRounding": (TTRounding, tt_net, False),
    "TTRounding, FedTT+": (TTRounding, tt_net, True),
    "FlexLoRA": (FlexLoRA, lora_net, False),
    "HetLoRA": (HetLoRA, lora_net, False),
}


def make_run(
    folder: Path, case: str, *extra: Callback, ranks: tuple[int, ...] = RANKS
) -> tuple[Trainer, ToyModule, FederatedDataModule, Record]:
    """3 rounds of 3 out of 4 clients of different size, two of each rank."""
    rule, build, plus = CASES[case]
    torch.manual_seed(3)
    module = ToyModule()
    module.net = build(8)  # type: ignore[assignment]
    module.double().train()
    data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
    record = Record()
    rounds = FederatedRounds(
        UniformSampler(3), local_epochs=2, aggregation=rule(), ranks=RankList(ranks), seed=11
    )
    plus_callback = [FactorFreezing()] if plus else []
    trainer = Trainer(
        callbacks=[rounds, *plus_callback, Communication(), record, *extra],
        max_epochs=3,
        default_root_dir=folder,
        precision="64-true",
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer, module, data, record


def message(tensors: dict[str, Tensor], rank: int) -> bytes:
    """What travels, cut by hand: the first entries along each axis that has the length 8."""
    parts = []
    for name, value in tensors.items():
        factor = "core_" in name or "lora_" in name
        cut = [slice(rank if factor and size == 8 else size) for size in value.shape]
        small = value[tuple(cut)]
        assert torch.count_nonzero(small) == torch.count_nonzero(value), name
        parts.append(small.reshape(-1))
    return save({"float64": torch.cat(parts)}, metadata={"schema": "0" * 64})


class Messages(Callback):
    """Serializes what each client fetches and sends, and keeps it."""

    def __init__(self) -> None:
        self.fetched: list[tuple[Any, dict[str, Tensor], int]] = []
        self.sent: list[tuple[Any, dict[str, Tensor], int]] = []
        self.last: dict[int, dict[str, Tensor]] = {}
        self.before: dict[str, Tensor] = {}

    def on_client_start(self, trainer, module, visit, resumed) -> None:  # type: ignore[no-untyped-def]
        loop = trainer.callbacks[0].loop
        start = {name: value.clone() for name, value in loop.start.tensors().items()}
        server = {name: value.clone() for name, value in loop.adapter.tensors().items()}
        known = self.last.get(visit.client, {})
        news = {n: v for n, v in start.items() if not torch.equal(known.get(n, v + 1), server[n])}
        self.last[visit.client] = server
        rank = RANKS[visit.client % 2]
        self.fetched.append((visit, start, len(message(news, rank))))

    def on_client_update(self, trainer, module, visit, update) -> None:  # type: ignore[no-untyped-def]
        rank = RANKS[visit.client % 2]
        self.sent.append((visit, update.tensors(), len(message(update.tensors(), rank))))


@pytest.mark.parametrize("case", CASES)
def test_bytes_are_those_of_each_rank(case: str, tmp_path: Path) -> None:
    messages = Messages()
    trainer, module, data, _ = make_run(tmp_path, case, messages)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer.fit(module, datamodule=data)
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    communication = next(c for c in trainer.callbacks if isinstance(c, Communication))
    assert communication.uploaded_total == sum(size for *_, size in messages.sent)
    assert communication.downloaded_total == sum(size for *_, size in messages.fetched)
    for records in (messages.sent, messages.fetched):
        small = [size for visit, _, size in records if visit.client % 2 == 0]
        large = [size for visit, _, size in records if visit.client % 2 == 1]
        assert small and large and 2 * max(small) < min(large)


@pytest.mark.parametrize("case", CASES)
def test_resumes_inside_visits_of_either_rank(case: str, tmp_path: Path) -> None:
    saved: dict[tuple[int, int, bool], Path] = {}

    def save_here(trainer: Trainer) -> None:
        loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
        if loop.is_open and loop.position < loop.plan.num_batches:
            key = loop.round, int(loop.ranks[loop.visit.client]), loop.step > 0
            if key not in saved:
                saved[key] = tmp_path / f"{len(saved)}.ckpt"
                trainer.save_checkpoint(saved[key])

    savers = [At(batch, save_here, end=True) for batch in range(200)]
    trainer, module, data, record = make_run(tmp_path, case, *savers)
    trainer.fit(module, datamodule=data)
    expected = outcome(module, record)
    between = next(key for key in saved if key[1:] == (1, False))
    for key in ((0, 1, True), (1, 8, True), between):
        trainer, module, data, record = make_run(tmp_path, case)
        trainer.fit(module, datamodule=data, ckpt_path=saved[key])
        assert outcome(module, record) == expected, key


@pytest.mark.parametrize("case", ["TTRounding", "FlexLoRA", "HetLoRA"])
def test_a_client_of_rank_1_trains_a_model_of_rank_1(case: str, tmp_path: Path) -> None:
    """Against the plain loop on a net that has never been larger."""
    messages = Messages()
    trainer, module, data, _ = make_run(tmp_path, case, messages)
    trainer.fit(module, datamodule=data)
    reference = CASES[case][1](1).double().train()
    reference.load_state_dict(
        {n: v for n, v in module.net.state_dict().items() if "core_" not in n and "lora_" not in n},
        strict=False,
    )
    params = {f"net.{n}": p for n, p in reference.named_parameters() if p.requires_grad}
    x, y = data.inner.train.tensors
    plain = PlainFederation(
        experiment=11,
        clients=[data.clients[i] for i in range(4)],
        rounds=1,
        batch_size=4,
        configure=module.configure,
        local_epochs=2,
    )
    visits = [
        (visit, start, update)
        for (visit, start, _), (_, update, _) in zip(messages.fetched, messages.sent, strict=True)
        if visit.client % 2 == 0
    ]
    assert len(visits) >= 3
    for visit, start, update in visits:
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(start[name][tuple(map(slice, p.shape))])
        plain.visit(
            reference,
            params,  # type: ignore[arg-type]
            visit.round,
            visit.client,
            lambda net, batch: nn.functional.cross_entropy(net(x[batch]), y[batch]),
        )
        for name, p in params.items():
            end = start[name] + update[name]
            torch.testing.assert_close(
                end[tuple(map(slice, p.shape))], p.detach(), rtol=1e-6, atol=1e-9
            )


def test_ranks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, "TTRounding", ranks=(1, 9))
    message = r"client 1 the rank 9, .* largest 8, .*: change federation\.ranks\.ranks\[1\], or"
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, datamodule=data)
    (tmp_path / "ranks.csv").write_text("rank,client\n1,0\n2,2\n9,1\n2,3\n")
    trainer.callbacks[0].ranks = RankColumn(tmp_path / "ranks.csv")  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"change .*ranks\.csv:4, or the rank in model\.peft"):
        trainer.fit(module, datamodule=data)
    trainer, module, data, _ = make_run(tmp_path, "TTRounding")
    trainer.callbacks[0].aggregation = HetLoRA()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="HetLoRA needs LoRA"):
        trainer.fit(module, datamodule=data)


def test_a_checkpoint_of_other_ranks_is_refused(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, "HetLoRA")
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    trainer, module, data, _ = make_run(tmp_path, "HetLoRA", ranks=(8, 1))
    with pytest.raises(ConfigError, match=r"federation\.ranks"):
        trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "end.ckpt")
