"""configs/cluster/sharded_silos.yaml learns the same in four processes and in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from byte_tokenizer import byte_tokenizer
from cli_options import ROOT
from fedtt_lightning.__main__ import main
from launch import launch, run_command
from tiny_models import language_model

CONFIG = str(ROOT / "configs/cluster/sharded_silos.yaml")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("small")
    model = language_model("llama", vocab_size=300, max_position_embeddings=128)
    model.save_pretrained(folder / "llama")
    byte_tokenizer().save_pretrained(folder / "llama")
    (folder / "BoolQ").mkdir()
    for split, size in (("train", 24), ("val", 8)):
        rows = [
            {"question": f"is it {i}", "passage": f"It is {i}.", "label": i % 3 > 0}
            for i in range(size)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "BoolQ" / f"{split}.jsonl").write_text(lines)
    return [
        *("--config", CONFIG, "--data.data_dir", str(folder), "--data.clients", "3"),
        *("--data.max_length", "100", "--model.backbone", str(folder / "llama")),
        *("--model.peft.bottleneck", "8", "--model.dtype", "float32"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"),
        *("--trainer.num_nodes", "1", "--trainer.enable_progress_bar", "false"),
    ]


def found(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and last metrics of a run."""
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return last["state_dict"], json.loads((folder / "summary.json").read_text())["metrics"]


@pytest.mark.processes
def test_two_silos_of_two_equal_one_process(options: list[str], tmp_path: Path) -> None:
    one, four = tmp_path / "one", tmp_path / "four"
    alone = ["--trainer.strategy", "auto", "--trainer.devices", "1", "--data.batch_size", "8"]
    assert main(["fit", *options, *alone, "--trainer.default_root_dir", str(one)]) == 0
    args = ["fit", *options, "--trainer.devices", "4", "--trainer.default_root_dir", str(four)]
    assert launch(run_command, tmp_path, args, processes=4) == [0] * 4
    (weights, metrics), (ours, numbers) = found(one), found(four)
    assert ours.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5, msg=name)
    assert numbers["fed/train_loss"] == pytest.approx(metrics["fed/train_loss"], abs=1e-5)
    assert numbers["val_acc"] == metrics["val_acc"]
