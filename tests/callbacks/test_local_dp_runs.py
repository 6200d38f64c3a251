"""Real PEFT methods in a real encoder under LocalDP: exact, and of use elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from peft import LoraConfig, PeftModel, TaskType
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from fedtt_lightning import FactorFreezing, TTAdapterConfig
from fedtt_lightning.federation import FFALoRA, HetLoRA, RankList
from plain_private import PlainPoissonFederation, PlainPrivateFederation
from private_run import local_dp
from private_text import PrivateText

SRC = Path(__file__).parents[2] / "src"

CONFIGS: dict[str, Any] = {
    "FedTT": lambda: TTAdapterConfig(
        rank=2, bottleneck=8, down_modes=[4, 4, 2, 2, 4], up_modes=[2, 4, 4, 4, 2]
    ),
    "dense": lambda: TTAdapterConfig(bottleneck=8, tensorized=False),
    "LoRA": lambda: LoraConfig(r=2, task_type=TaskType.SEQ_CLS),
}


def close(run: PrivateText, expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        actual = run.module.net.get_parameter(name)
        torch.testing.assert_close(actual, value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("method", CONFIGS)
def test_without_noise_and_bound_it_is_plain_training(tmp_path: Path, method: str) -> None:
    dp = {"noise_multiplier": 0.0, "clip": 1e6}
    run = PrivateText(tmp_path, CONFIGS[method](), dp=dp).fit()
    start = {name: p.clone() for name, p in run.before.named_parameters()}
    expected = run.plain(PlainPoissonFederation)
    close(run, expected, 1e-6)
    assert all((value - start[name]).abs().max() > 1e-4 for name, value in expected.items())


def frozen_by_rotation(names: Collection[str]) -> Callable[[int], set[str]]:
    """FedTT+, written anew, of tensor trains that have five factors."""

    def frozen(round: int) -> set[str]:
        ends = tuple(f"core_{i}" for i in (1, 2, 3) if i != 1 + round % 3)
        return {name for name in names if name.endswith(ends)}

    return frozen


class Uploads(Callback):
    def __init__(self) -> None:
        self.names: dict[int, set[str]] = {}
        self.empty = 0

    def on_client_update(self, trainer: Any, module: Any, visit: Any, update: Any) -> None:
        self.names.setdefault(visit.round, set()).update(update.schema.names)
        poisson = trainer.datamodule.poisson
        self.empty += sum(poisson.size(visit, step) == 0 for step in range(visit.num_batches))


@pytest.mark.parametrize("batch_size", [5, 2], ids=["usual batches", "batches often empty"])
def test_fedtt_plus_clips_noises_and_sends_what_trains(tmp_path: Path, batch_size: int) -> None:
    uploads = Uploads()
    dp = {"noise_multiplier": 0.8, "clip": 0.3}
    options = {"batch_size": batch_size, "dp": dp}
    run = PrivateText(tmp_path, CONFIGS["FedTT"](), FactorFreezing(), uploads, **options).fit()
    names = {name for name, p in run.before.named_parameters() if p.requires_grad}
    frozen = frozen_by_rotation(names)
    assert (uploads.empty > 12) == (batch_size == 2)
    for round in range(3):
        assert len(frozen(round)) == 2 * 8  # of 2 blocks × 2 adapters × 2 tensor trains
        assert uploads.names[round] == {f"net.{name}" for name in names - frozen(round)}
    close(run, run.plain(PlainPrivateFederation, noise=0.8, bound=0.3, frozen=frozen), 1e-7)


def test_ffa_lora_noises_b_alone(tmp_path: Path) -> None:
    dp = {"noise_multiplier": 0.8, "clip": 0.3}
    run = PrivateText(tmp_path, CONFIGS["LoRA"](), FactorFreezing(FFALoRA()), dp=dp)
    start = {name: p.clone() for name, p in run.before.named_parameters() if p.requires_grad}
    run.fit()
    for name, value in start.items():
        assert torch.equal(run.module.net.get_parameter(name), value) == ("lora_A" in name), name
    frozen = {name for name in start if "lora_A" in name}
    expected = run.plain(PlainPrivateFederation, noise=0.8, bound=0.3, frozen=lambda _: frozen)
    close(run, expected, 1e-7)


def test_clients_of_smaller_rank_get_no_noise_beyond_it(tmp_path: Path) -> None:
    sent: list[tuple[int, dict[str, Tensor]]] = []

    class Sees(Callback):
        def on_client_update(self, trainer: Any, module: Any, visit: Any, update: Any) -> None:
            sent.append((visit.client, update.tensors()))

    ranks = [1, 2, 4]
    federation = {"aggregation": HetLoRA(), "ranks": RankList(ranks)}
    lora = LoraConfig(r=4, task_type=TaskType.SEQ_CLS)
    dp = {"noise_multiplier": 1.0}
    PrivateText(tmp_path, lora, Sees(), dp=dp, federation=federation, rounds=1).fit()
    assert [client for client, _ in sent] == [0, 1, 2]
    for client, update in sent:
        for name, value in update.items():
            if "lora_" in name:
                rows = value if "lora_A" in name else value.T
                assert (rows[: ranks[client]] != 0).all() and (rows[ranks[client] :] == 0).all()
            else:
                assert (value != 0).all(), name


def test_a_saved_adapter_predicts_elsewhere_what_it_did_here(tmp_path: Path) -> None:
    """And has learned something under noise, which opacus over PEFT's LoRA was seen not to."""
    for method, config in CONFIGS.items():
        folder = tmp_path / method
        run = PrivateText(
            folder,
            config(),
            dp={"noise_multiplier": 0.1, "clip": 1.0},
            configure=lambda parameters: torch.optim.AdamW(parameters, lr=0.03),
            dtype=torch.float32,
            rounds=6,
            precision="32-true",
        ).fit()
        tokens, labels = run.data.inner.train.tensors  # type: ignore[attr-defined]
        here = run.logits()
        assert (here.argmax(-1) == labels).float().mean() > 0.9, method
        run.base.save_pretrained(folder / "base")
        run.module.net.model.save_pretrained(folder / "adapter")  # type: ignore[operator,union-attr]
        base = AutoModelForSequenceClassification.from_pretrained(folder / "base")
        model = PeftModel.from_pretrained(base, folder / "adapter").eval()
        with torch.no_grad():
            there = model(input_ids=tokens).logits
        torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-6)


def test_bfloat16_and_any_order_of_callbacks(tmp_path: Path) -> None:
    """Half precision changes rounding, the place among the callbacks nothing."""

    def run(first: bool, precision: Any = "32-true") -> PrivateText:
        dp = {"noise_multiplier": 0.8, "clip": 0.3}
        made = PrivateText(
            tmp_path, CONFIGS["FedTT"](), dp=dp, dtype=torch.float32, precision=precision, rounds=1
        )
        if first:
            made.trainer.callbacks.reverse()  # type: ignore[attr-defined]
            assert made.trainer.callbacks[-1] is not local_dp(made.trainer)  # type: ignore[attr-defined]
        return made.fit()

    usual, other, half = run(False), run(True), run(False, "bf16-mixed")
    assert torch.equal(usual.logits(), other.logits())
    assert 0 < (usual.logits() - half.logits()).abs().max() < 0.2
    accounts = [local_dp(made.trainer).ledger.state_dict() for made in (usual, other, half)]
    assert accounts[0] == accounts[1] == accounts[2]


IMPORTS = """
import sys
from pathlib import Path
import fedtt_lightning.callbacks, fedtt_lightning.federation, fedtt_lightning.privacy
from toy_run import make_run
trainer, module, data, _ = make_run(Path(sys.argv[1]), max_epochs=1)
trainer.fit(module, datamodule=data)
assert trainer.current_epoch == 1
sys.exit(any(name.split(".")[0] == "opacus" for name in sys.modules))
"""


@pytest.mark.processes
def test_runs_without_privacy_do_without_opacus(tmp_path: Path) -> None:
    path = os.pathsep.join([str(SRC), str(SRC.parent / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", IMPORTS, str(tmp_path)]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
