"""FLoRA: what is merged is the dense mean of the products, and nothing forgets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from peft import LoraConfig, get_peft_model
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.pytorch_utils import Conv1D

from fedtt_lightning import FederatedDataModule, FederatedRounds, SequenceClassifier
from fedtt_lightning.callbacks import Communication, LoRAMerging
from fedtt_lightning.data import BuiltinText, BySize
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FlexLoRA, FLoRA, RankList, UniformSampler
from toy import FEATURES, ToyData, ToyModule
from toy_run import At, Record, outcome

TARGETS = ("linear", "gpt", "table", "conv")
SCALING = 2.0


class Net(nn.Module):
    """Every kind of layer that LoRA changes: linear, GPT-2's transposed one, embedding, Conv1d."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, 10)
        self.gpt = Conv1D(10, 10)
        self.table = nn.Embedding(5, 10)
        self.conv = nn.Conv1d(1, 3, 4)
        self.head = nn.Linear(21, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
        hidden = torch.tanh(self.gpt(torch.tanh(self.linear(x)))) + self.table(tokens)
        return self.head(torch.tanh(self.conv(hidden[:, None])).flatten(1))


def lora(rank: int = 4, **changes: Any) -> LoraConfig:
    return LoraConfig(
        **{
            "r": rank,
            "lora_alpha": SCALING * rank,
            "target_modules": list(TARGETS),
            "modules_to_save": ["head"],
            **changes,
        }
    )


def make_run(
    folder: Path, *extra: Callback, config: LoraConfig | None = None, **federation: Any
) -> tuple[Trainer, ToyModule, FederatedDataModule, Record]:
    torch.manual_seed(3)
    module = ToyModule()
    module.net = get_peft_model(Net(), config or lora())  # type: ignore[arg-type, assignment]
    module.double().train()
    data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
    record = Record()
    rounds = FederatedRounds(
        **{
            "sampler": UniformSampler(3),
            "local_epochs": 2,
            "aggregation": FLoRA(),
            "ranks": RankList([1, 4]),
            "seed": 11,
            **federation,
        }
    )
    trainer = Trainer(
        callbacks=[rounds, Communication(), record, *extra],
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


def base_weights(module: LightningModule) -> dict[str, Tensor]:
    return {
        target: next(
            p.detach().clone()
            for name, p in module.named_parameters()
            if f"{target}.base_layer.weight" in name
        )
        for target in TARGETS
    }


def product(tensors: dict[str, Tensor], target: str) -> Tensor:
    (a,) = (v for n, v in tensors.items() if f"{target}.lora" in n and "_A." in n)
    (b,) = (v for n, v in tensors.items() if f"{target}.lora" in n and "_B." in n)
    return b.flatten(1) @ a.flatten(1)


class Watch(Callback):
    """Keeps what every visit ends with, and the weights after every round."""

    def __init__(self) -> None:
        self.ends: list[list[tuple[int, dict[str, Tensor]]]] = []
        self.starts: list[list[int]] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_round_start(self, trainer, module, plan) -> None:  # type: ignore[no-untyped-def]
        self.ends.append([])
        self.starts.append([])
        if not self.weights:
            self.weights.append(base_weights(module))

    def on_client_start(self, trainer, module, visit, resumed) -> None:  # type: ignore[no-untyped-def]
        self.starts[-1].append(visit.client)

    def on_client_update(self, trainer, module, visit, update) -> None:  # type: ignore[no-untyped-def]
        start, change = trainer.callbacks[0].loop.start.tensors(), update.tensors()
        end = {name: value + change[name] for name, value in start.items()}
        self.ends[-1].append((visit.num_examples, end))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append(base_weights(pl_module))


def test_merges_the_mean_product_into_every_kind_of_layer(tmp_path: Path) -> None:
    watch = Watch()
    trainer, module, data, _ = make_run(tmp_path, LoRAMerging(), watch)
    lora_before = {n: p.detach().clone() for n, p in module.named_parameters() if "lora_" in n}
    trainer.fit(module, datamodule=data)
    for round, ends in enumerate(watch.ends):
        assert len(ends) == 3
        examples = sum(size for size, _ in ends)
        for target in TARGETS:
            before, after = watch.weights[round][target], watch.weights[round + 1][target]
            mean = sum(size / examples * product(end, target) for size, end in ends)
            if target in ("gpt", "table"):
                mean = mean.T
            expected = before + SCALING * mean.reshape(before.shape)
            torch.testing.assert_close(after, expected)
            assert not torch.equal(after, before)
    for name, value in lora_before.items():
        assert torch.equal(value, module.get_parameter(name)), "the LoRA starts afresh"


def test_merged_weights_are_what_a_merged_model_computes(tmp_path: Path) -> None:
    """One client alone: the merged weights with an empty LoRA equal PEFT's own model."""
    watch = Watch()
    trainer, module, data, _ = make_run(
        tmp_path, LoRAMerging(), watch, sampler=UniformSampler(1), ranks=None
    )
    trainer.fit_loop.max_epochs = 1
    x = torch.randn(7, FEATURES, dtype=torch.float64)
    torch.manual_seed(3)
    twin = ToyModule()
    twin.net = get_peft_model(Net(), lora())  # type: ignore[arg-type, assignment]
    twin.double()
    trainer.fit(module, datamodule=data)
    twin.load_state_dict({**twin.state_dict(), **watch.ends[0][0][1]})
    torch.testing.assert_close(module.net.eval()(x), twin.net.eval()(x))


def test_bytes_of_the_stacks(tmp_path: Path) -> None:
    watch = Watch()
    trainer, module, data, _ = make_run(tmp_path, LoRAMerging(), watch)
    trainer.fit(module, datamodule=data)
    shapes = {"linear": (10, 12), "gpt": (10, 10), "table": (10, 5), "conv": (3, 4)}

    def message(ranks: int) -> int:
        values = sum(min(ranks * (n + m), n * m) for n, m in shapes.values())
        return len(save({"float64": torch.zeros(values).double()}, {"schema": "0" * 64}))

    expected, seen, stacks = 0, {}, []
    for clients in watch.starts:
        for client in clients:
            if missed := stacks[seen.get(client, 0) :]:
                expected += message(sum(missed))
            seen[client] = len(stacks)
        stacks.append(sum((1, 4)[client % 2] for client in clients))
    communication = next(c for c in trainer.callbacks if isinstance(c, Communication))
    # What travels beside the stacks: all at a client's first visit, then the head.
    first, later = 0, 0
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    visits = [client for clients in watch.starts for client in clients]
    head = loop.schema.select([n for n in loop.schema.names if "lora_" not in n])
    for i, client in enumerate(visits):
        if client in visits[:i]:
            later += communication._size(loop, head, client)
        else:
            first += communication._size(loop, loop.schema, client)
    assert expected > 0 and communication.downloaded_total == expected + first + later


def test_resumes_inside_visits(tmp_path: Path) -> None:
    saved: dict[tuple[int, bool], Path] = {}

    def save_here(trainer: Trainer) -> None:
        loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
        if loop.is_open and (loop.round, loop.step > 0) not in saved:
            path = tmp_path / f"{len(saved)}.ckpt"
            saved[loop.round, loop.step > 0] = path
            trainer.save_checkpoint(path)

    savers = [At(batch, save_here, end=True) for batch in range(200)]
    trainer, module, data, record = make_run(tmp_path, LoRAMerging(), *savers)
    trainer.fit(module, datamodule=data)
    expected = outcome(module, record)
    for key in ((0, True), (1, False), (2, True)):
        trainer, module, data, record = make_run(tmp_path, LoRAMerging())
        trainer.fit(module, datamodule=data, ckpt_path=saved[key])
        assert outcome(module, record) == expected, key


def test_a_slim_checkpoint_holds_what_was_merged(tmp_path: Path, tiny_backbone: str) -> None:
    """A classifier leaves its frozen weights out of checkpoints, but not those written to."""

    def build() -> SequenceClassifier:
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["query", "value"])
        return SequenceClassifier(tiny_backbone, num_labels=2, peft=config)

    module, data = build(), BuiltinText(150, 60, 60, clients=3)
    trainer = Trainer(
        callbacks=[FederatedRounds(aggregation=FLoRA(), local_steps=4), LoRAMerging()],
        max_epochs=2,
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, datamodule=data)
    path = tmp_path / "end.ckpt"
    trainer.save_checkpoint(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    moved = [n for n, v in module.state_dict().items() if not torch.equal(v, before[n])]
    merged = [name for name in moved if "base_layer.weight" in name]
    assert merged and set(moved) <= set(state) and len(state) < len(before)
    fresh = build()
    batch: DataLoader[Any] = data.val_dataloader()
    (ours,) = trainer.validate(module, batch, verbose=False)
    (theirs,) = trainer.validate(fresh, batch, ckpt_path=path, verbose=False)
    assert ours == theirs
    for name, value in module.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name


CASES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda p: make_run(p), "add fedtt_lightning.callbacks.LoRAMerging"),
    (lambda p: make_run(p, LoRAMerging(), aggregation=FlexLoRA()), "aggregation FLoRA"),
    (
        lambda p: make_run(p, LoRAMerging(), config=lora(use_dora=True, target_modules=["linear"])),
        "DoRA",
    ),
    (lambda p: make_run(p, LoRAMerging(), config=lora(init_lora_weights=False)), "not zero"),
]


@pytest.mark.parametrize(("build", "message"), CASES, ids=[message for _, message in CASES])
def test_what_cannot_be_merged_is_refused(
    build: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    trainer, module, data, _ = build(tmp_path)
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, datamodule=data)
