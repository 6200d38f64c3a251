"""Any PEFT configuration by class_path, from YAML and from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.modules import SequenceClassifier


class OneBatch(LightningDataModule):
    """Six rows of nine tokens."""

    def train_dataloader(self) -> DataLoader[Any]:
        ids = torch.arange(54).reshape(6, 9)
        labels = torch.tensor([0, 1, 1, 0, 1, 0])
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        return DataLoader([batch], batch_size=None)


@pytest.fixture(autouse=True)
def _no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["test"])


PEFT = {
    "tt": {
        "class_path": "fedtt_lightning.adapters.TTAdapterConfig",
        "init_args": {"rank": 3, "bottleneck": 16},
    },
    "lora": {
        "class_path": "peft.LoraConfig",
        "init_args": {"r": 8, "target_modules": ["query", "value"], "loftq_config": {}},
    },
}


def run(bert: str, folder: Path, spec: Any, *args: str, command: str | None = None) -> LightningCLI:
    model = {
        "class_path": "fedtt_lightning.modules.SequenceClassifier",
        "init_args": {"backbone": bert, "peft": spec},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"model": model}))
    return LightningCLI(
        SequenceClassifier,
        OneBatch,
        subclass_mode_model=True,
        save_config_callback=None,
        run=command is not None,
        trainer_defaults={
            "accelerator": "cpu",
            "default_root_dir": str(folder),
            "max_epochs": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        args=[*([command] if command else []), "--config", str(config), *args],
    )


def adapter(cli: LightningCLI) -> Any:
    return cli.model.model.peft_config["default"]


def test_yaml_names_the_class_and_the_command_line_overrides(bert: str, tmp_path: Path) -> None:
    tt = adapter(run(bert, tmp_path, PEFT["tt"], "--model.peft.rank", "2"))
    assert isinstance(tt, TTAdapterConfig)
    assert (tt.rank, tt.bottleneck) == (2, 16)
    lora = adapter(run(bert, tmp_path, PEFT["lora"], "--model.peft.lora_alpha=4"))
    assert isinstance(lora, peft.LoraConfig)
    assert (lora.r, lora.lora_alpha, lora.target_modules) == (8, 4, {"query", "value"})


def test_command_line_alone_names_a_method(bert: str, tmp_path: Path) -> None:
    args = ["--model.peft", "peft.LoraConfig", "--model.peft.r", "2"]
    lora = adapter(run(bert, tmp_path, None, *args, "--model.peft.target_modules", "[query]"))
    assert (lora.r, lora.target_modules) == (2, {"query"})
    assert adapter(run(bert, tmp_path, None, "--model.peft", "TTAdapterConfig")).rank == 5
    assert not hasattr(run(bert, tmp_path, PEFT["tt"], "--model.peft", "null").model, "peft_config")


def test_print_config_shows_every_field(
    bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(bert, tmp_path, PEFT["tt"], "--print_config")
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["peft"]
    assert shown["class_path"] == "fedtt_lightning.adapters.TTAdapterConfig"
    assert shown["init_args"]["rank"] == 3
    assert shown["init_args"]["target_modules"] is None


@pytest.mark.parametrize(
    ("method", "args", "named"),
    [
        ("tt", ["--model.peft.rang", "2"], "rang"),
        ("tt", ["--model.peft.rank", "two"], "two"),
        ("lora", ["--model.peft.rank", "2"], "rank"),
        ("lora", ["--model.peft", "peft.LoraConfg"], "LoraConfg"),
        ("lora", ["--model.peft", "torch.nn.Linear"], "Linear"),
    ],
)
def test_unknown_fields_and_classes_are_named(
    bert: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    args: list[str],
    named: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(bert, tmp_path, PEFT[method], *args)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


def test_optimizer_and_scheduler_by_name(bert: str, tmp_path: Path) -> None:
    args = ["--optimizer", "SGD", "--optimizer.lr", "0.5"]
    args += ["--lr_scheduler", "StepLR", "--lr_scheduler.step_size=1", "--lr_scheduler.gamma=0.1"]
    cli = run(bert, tmp_path, PEFT["tt"], *args, command="fit")
    (optimizer,) = cli.trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize("method", PEFT)
def test_checkpoint_of_a_command_line_run_opens_without_its_config(
    bert: str, tmp_path: Path, method: str
) -> None:
    cli = run(bert, tmp_path, PEFT[method], command="fit")
    (file,) = (tmp_path / "checkpoints").glob("*.ckpt")
    torch.load(file, weights_only=True)
    loaded = SequenceClassifier.load_from_checkpoint(file)
    for (name, a), b in zip(loaded.named_parameters(), cli.model.parameters(), strict=True):
        assert torch.equal(a, b), name
