"""The measured gap against operators multiplied out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from operator_gap import OperatorGap, operators

from fedtt_lightning import FederatedDataModule, FederatedRounds
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import TTRounding
from toy import ToyData, ToyModule


class Seen(Callback):
    """Keeps what each client came to and what the server made of it."""

    def __init__(self) -> None:
        self.clients: list[tuple[int, dict[str, torch.Tensor]]] = []
        self.servers: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    def on_client_update(self, trainer: Trainer, module: Any, visit: Any, update: Any) -> None:
        change = update.tensors()  # the module holds what the visit began from again
        parameters = {n: p.detach() for n, p in module.named_parameters() if "core" in n}
        came_to = {name: value + change[name] for name, value in parameters.items()}
        self.clients.append((visit.num_examples, came_to))

    def on_aggregate(self, trainer: Trainer, module: Any, old: Any, new: Any) -> None:
        self.servers.append((old.clone().tensors(), new.clone().tensors()))


def run(folder: Path, sizes: list[int], **federation: Any) -> tuple[list[dict[str, float]], Seen]:
    torch.manual_seed(0)
    seen = Seen()
    callbacks = [seen, OperatorGap(), FederatedRounds(**federation)]
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    data = FederatedDataModule(ToyData(), clients=len(sizes), partition=BySize(sizes))
    trainer.fit(ToyModule().double(), data)
    return json.loads((folder / "gaps.json").read_text()), seen


def product(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    names = sorted(name for name in tensors if "core" in name)
    return torch.einsum("aib,bjc,ckd,dle,emf->ijklm", *(tensors[name] for name in names))


def test_the_gap_is_that_of_the_operators_multiplied_out(tmp_path: Path) -> None:
    gaps, seen = run(tmp_path, [1, 2, 4])
    for round, gap in enumerate(gaps):
        visits = seen.clients[3 * round : 3 * round + 3]
        mean = sum(n * product(cores) for n, cores in visits) / sum(n for n, _ in visits)
        before, after = (product(cores) for cores in seen.servers[round])
        miss = (after - mean).norm()
        assert gap["of_operator"] == pytest.approx(float(miss / mean.norm()), rel=1e-9)
        assert gap["of_change"] == pytest.approx(float(miss / (mean - before).norm()), rel=1e-9)
        assert gap["of_change"] > 1e-3


def test_one_client_leaves_no_gap_and_rounding_a_smaller_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    alone, _ = run(tmp_path / "one", [1])
    assert all(gap["of_operator"] < 1e-12 for gap in alone)
    averaged, _ = run(tmp_path, [1, 2, 4])
    rounded, _ = run(tmp_path, [1, 2, 4], aggregation=TTRounding())
    assert rounded[0]["of_operator"] < averaged[0]["of_operator"]


def test_operators_are_grouped_by_train() -> None:
    cores = [torch.randn(1, 2, 3), torch.randn(3, 4, 1)]
    tensors = {"a.down_core_0": cores[0], "a.down_core_1": cores[1], "head": torch.randn(2)}
    (operator,) = operators(tensors).values()
    assert torch.allclose(operator.view(2, 4), cores[0][0].double() @ cores[1][..., 0].double())
