"""What private training cannot work with is refused before it starts, with the key to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim import SGD

from fedtt_lightning.callbacks import LocalDP, Scaffold
from fedtt_lightning.callbacks.local_dp_checks import local_dp_problems
from fedtt_lightning.errors import ConfigError
from private_run import local_dp, private_run
from toy import ToyModule
from toy_run import At


def refused(folder: Path, message: str, *extra: Any, **options: Any) -> None:
    trainer, module, data, _ = private_run(folder, *extra, **options)
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, datamodule=data)


TRAINER: dict[str, tuple[dict[str, Any], str]] = {
    "clip": ({"gradient_clip_val": 1.0}, r"trainer.gradient_clip_val is 1.0.*remove it"),
    "accumulation": (
        {"accumulate_grad_batches": 2},
        r"trainer.accumulate_grad_batches is 2.*set it to 1 and data.batch_size",
    ),
    "half": (
        {"precision": None, "plugins": [MixedPrecision("16-mixed", "cpu")]},
        r"trainer.precision is 16-mixed.*use one of 32-true, 64-true, bf16-mixed",
    ),
    "half weights": ({"precision": "bf16-true"}, r"trainer.precision is bf16-true"),
    "endless": ({"max_epochs": -1, "max_steps": 9}, r"trainer.max_epochs is not limited"),
}


@pytest.mark.parametrize(("options", "message"), TRAINER.values(), ids=TRAINER.keys())
def test_refuses_of_the_trainer(tmp_path: Path, options: Any, message: str) -> None:
    refused(tmp_path, message, **options)


@pytest.mark.parametrize("devices", [1, 2])
def test_refuses_what_averages_gradients(devices: int) -> None:
    trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp", logger=False)
    problems = list(local_dp_problems(LocalDP(1.0), trainer, ToyModule()))
    message = "trainer.strategy DDPStrategy averages gradients before LocalDP can clip"
    assert any(line.startswith(message) and "to silo_ddp, or" in line for line in problems)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"noise_multiplier": None}, "neither epsilon nor noise_multiplier"),
    "epsilon": ({"epsilon": 0.0}, "epsilon is 0.0, but must be a number > 0"),
    "endless epsilon": ({"epsilon": torch.inf}, "epsilon is inf"),
    "noise": ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0, but must be a number >= 0"),
    "no noise": ({"noise_multiplier": 0.0, "epsilon": 3.0}, "noise_multiplier 0 protects nothing"),
    "delta": ({"delta": 1.0}, "delta is 1.0, but must lie between 0 and 1"),
    "clip": ({"clip": 0.0}, "clip is 0.0, but must be a number > 0"),
    "accountant": ({"accountant": "moments"}, "'moments', but must be rdp, prv or gdp"),
    "delta of a client": ({"delta": 0.1}, r"client 3 has 28 examples.*below 1/28.*Lower delta"),
    "spent at once": (
        {"noise_multiplier": 0.3, "epsilon": 1.0, "accountant": "gdp"},
        r"spends more than epsilon 1.0 in the first visit of every client: raise it",
    ),
    "secret": ({"secret_file": "/no/such/file"}, r"secret_file /no/such/file: No such file"),
}


@pytest.mark.parametrize(("dp", "message"), SETTINGS.values(), ids=SETTINGS.keys())
def test_refuses_settings(tmp_path: Path, dp: dict[str, Any], message: str) -> None:
    refused(tmp_path, message, dp=dp)


def test_refuses_an_epsilon_out_of_reach(tmp_path: Path) -> None:
    dp = {"noise_multiplier": None, "epsilon": 0.05}
    trainer, module, data, _ = private_run(tmp_path, dp=dp)
    data.inner.batch_size = 40  # type: ignore[attr-defined]  # whole clients, which is quick
    with pytest.raises(ConfigError, match=r"epsilon 0.05 .* by no noise.*raise epsilon or delta"):
        trainer.fit(module, datamodule=data)


def with_part(name: str, part: nn.Module) -> type[ToyModule]:
    class With(ToyModule):
        def __init__(self, configure: Any) -> None:
            super().__init__(configure)
            self.net.add_module(name, part)

    return With


def checkpointing(module: nn.Module) -> nn.Module:
    module.gradient_checkpointing = True  # type: ignore[assignment]  # as transformers' models say
    return module


PARTS: dict[str, tuple[str, nn.Module, str]] = {
    "BatchNorm": ("norm", nn.BatchNorm1d(8), r"net.norm is a BatchNorm1d.*GroupNorm or LayerNorm"),
    "position": (
        "position_embeddings",
        nn.Embedding(4, 8),
        r"net.position_embeddings.weight trains, but position embeddings.*freeze them",
    ),
    "wpe": ("wpe", nn.Embedding(4, 8), r"net.wpe.weight trains, but position embeddings"),
    "list": (
        "scales",
        nn.ParameterList([torch.ones(1) for _ in range(5)]),
        r"net.scales.0, net.scales.1, net.scales.2 and 2 more lie in a ParameterList or.*\(IA\)3",
    ),
    "dict": ("scales", nn.ParameterDict({"a": torch.ones(1)}), r"net.scales.a lie in"),
    "checkpointing": ("block", checkpointing(nn.Linear(8, 8)), r"net.block recomputes activations"),
    "dropout": ("drop", nn.Dropout(0.3), r"net has dropout 0.3 among parameters of its own"),
}


@pytest.mark.parametrize(("name", "part", "message"), PARTS.values(), ids=PARTS.keys())
def test_refuses_of_the_model(tmp_path: Path, name: str, part: nn.Module, message: str) -> None:
    refused(tmp_path, message, module=with_part(name, part))


def test_refuses_layers_that_are_made_late(tmp_path: Path) -> None:
    class Late(ToyModule):
        def setup(self, stage: str) -> None:
            self.net.norm = nn.BatchNorm1d(8, track_running_stats=False)

    refused(tmp_path, "net.norm is a BatchNorm1d", module=Late)


@pytest.mark.parametrize("frozen", [nn.Embedding(4, 8), nn.LayerNorm(8)])
def test_takes_positions_and_norms_that_do_not_train(tmp_path: Path, frozen: nn.Module) -> None:
    trainer, module, _, _ = private_run(tmp_path)
    module.net.add_module("position_embeddings", frozen.requires_grad_(False))
    assert not list(local_dp_problems(LocalDP(1.0), trainer, module))


def test_refuses_scaffold(tmp_path: Path) -> None:
    refused(tmp_path, r"Scaffold in trainer.callbacks uploads.*use FedProx", Scaffold(), plus=False)


def test_refuses_manual_optimization(tmp_path: Path) -> None:
    class Manual(ToyModule):
        def __init__(self, configure: Any) -> None:
            super().__init__(configure)
            self.automatic_optimization = False

    refused(tmp_path, r"Manual.automatic_optimization is False", module=Manual)


def test_refuses_an_optimizer_that_leaves_tensors_out(tmp_path: Path) -> None:
    def some(parameters: list[nn.Parameter]) -> Any:
        return SGD(parameters[:-2], lr=0.1)

    refused(tmp_path, r"leaves out net.head.weight and 1 others.*freeze them", configure=some)


def test_lightning_refuses_two_optimizers_and_two_of_them(tmp_path: Path) -> None:
    def two(parameters: list[nn.Parameter]) -> Any:
        return [SGD(parameters[:3], lr=0.1), SGD(parameters[3:], lr=0.1)]

    trainer, module, data, _ = private_run(tmp_path, configure=two)
    with pytest.raises(RuntimeError, match="Training with multiple optimizers is only supported"):
        trainer.fit(module, datamodule=data)
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `LocalDP`"):
        private_run(tmp_path, LocalDP(1.0))


def test_refuses_a_second_one_of_another_class(tmp_path: Path) -> None:
    class Second(LocalDP):
        """Which Lightning lets pass."""

    refused(tmp_path, "trainer.callbacks holds 2 LocalDP: leave one", Second(1.0))


def test_refuses_a_cap_on_batches_where_budgets_end(tmp_path: Path) -> None:
    options = {"dp": {"noise_multiplier": 1.0, "epsilon": 8.0, "accountant": "gdp"}}
    trainer, module, data, _ = private_run(tmp_path, **options, limit_train_batches=20)
    with pytest.raises(ConfigError, match=r"trainer.limit_train_batches is 20.*spent"):
        trainer.fit(module, datamodule=data)


def test_says_all_at_once(tmp_path: Path) -> None:
    trainer, module, data, _ = private_run(
        tmp_path, dp={"clip": 0.0, "delta": 2.0}, gradient_clip_val=1.0, accumulate_grad_batches=2
    )
    with pytest.raises(ConfigError) as error:
        trainer.fit(module, datamodule=data)
    assert len(str(error.value).splitlines()) == 4


def stop(trainer: Trainer) -> None:
    trainer.should_stop = True


CALIBRATED = {"noise_multiplier": None, "epsilon": 20.0, "accountant": "gdp"}
OTHERS: dict[str, dict[str, Any]] = {
    "epsilon": {"dp": {"epsilon": 21.0}},
    "delta": {"dp": {"delta": 1e-6}},
    "clip": {"dp": {"clip": 0.5}},
    "noise": {"dp": {"noise_multiplier": 1.0, "epsilon": None}},
    "accountant": {"dp": {"accountant": "rdp", "noise_multiplier": 0.9}},
    "secret": {"dp": {"secret_file": "secret"}},
    "rounds": {"max_epochs": 4},
}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run that was stopped in its second round."""
    folder = tmp_path_factory.mktemp("calibrated")
    trainer, module, data, _ = private_run(folder, At(31, stop), dp=CALIBRATED)
    trainer.fit(module, datamodule=data)
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_refuses_to_resume_with_other_privacy(
    tmp_path: Path, calibrated: Path, other: dict[str, Any]
) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    dp = {**CALIBRATED, **other.get("dp", {})}
    if "secret_file" in dp:
        dp["secret_file"] = str(tmp_path / "secret")
    trainer, module, data, _ = private_run(tmp_path, **{**other, "dp": dp})
    message = r"was trained with privacy local DP.*this run has privacy local DP.*use the same"
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, datamodule=data, ckpt_path=calibrated)


def test_privacy_neither_begins_nor_ends_with_a_resume(tmp_path: Path, calibrated: Path) -> None:
    def without(folder: Path) -> Any:
        trainer, module, data, _ = private_run(folder, dp=CALIBRATED)
        trainer.callbacks.remove(local_dp(trainer))  # type: ignore[attr-defined]
        return trainer, module, data

    trainer, module, data = without(tmp_path / "ends")
    with pytest.raises(ConfigError, match=r"trained with privacy local DP.*has privacy none"):
        trainer.fit(module, datamodule=data, ckpt_path=calibrated)
    trainer, module, data = without(tmp_path)
    trainer.fit_loop.max_epochs = 1
    trainer.fit(module, datamodule=data)
    trainer, module, data, _ = private_run(tmp_path, dp=CALIBRATED)
    with pytest.raises(ConfigError, match=r"trained with privacy none.*has privacy local DP"):
        trainer.fit(module, datamodule=data, ckpt_path="last")
