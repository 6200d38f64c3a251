"""A card says what the hub wants and what was run, and no more than the checkpoint knows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
from huggingface_hub import ModelCard

from fedtt_lightning.__main__ import main
from fedtt_lightning.adapters import TTAdapterConfig

ROOT = Path(__file__).parents[2]


def export(ckpt: Path, output: Path, *options: str) -> str:
    assert main(["export", "--ckpt", str(ckpt), "--output", str(output), *options]) == 0
    return (output / "README.md").read_text()


def test_of_a_federated_private_run(
    backbones: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        *("--config", str(ROOT / "configs/llama/stories_fedtt.yaml")),
        *("--config", str(ROOT / "callbacks/fedtt_plus.yaml")),
        *("--config", str(ROOT / "callbacks/local_dp.yaml")),
        *("--model.backbone", backbones["llama"], "--model.peft.bottleneck", "16"),
        *("--trainer.max_epochs", "2", "--trainer.default_root_dir", str(tmp_path / "run")),
        *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
        *("--data.train_size", "48", "--data.test_size", "4", "--data.clients", "2"),
        *("--data.max_length", "32"),
    ]
    assert main(["fit", *options]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    card = export(tmp_path / "run/checkpoints/last.ckpt", tmp_path / "out", *options)
    rows = dict(re.findall(r"^\| (.+) \| (.+) \|$", card, re.MULTILINE))
    assert rows["method"] == summary["method"] == "FedTT+"
    assert (rows["rounds"], rows["clients"]) == ("2", "2")
    assert rows["trained parameters"] == f"{summary['trainable_parameters']:,}"
    spent = summary["metrics"]["dp/epsilon_max"]
    assert 0 < spent < 6.01
    assert float(rows["ε spent (dp/epsilon_max)"]) == pytest.approx(spent, rel=1e-3)
    assert "local DP with epsilon 6.0, delta 1e-05, clip 1.0" in rows["privacy"]
    perplexity = summary["metrics"]["val_perplexity"]
    assert float(rows["val_perplexity"]) == pytest.approx(perplexity, abs=1e-4)
    assert rows["FactorFreezing callback"] == "RotatingFactor(biases=True, count=1)"
    command = next(line for line in card.splitlines() if line.startswith("    python -m"))
    assert command.split()[3:] == ["fit", *options]
    assert f"peft {peft.__version__}" in card and "fedtt-lightning 0" in card
    head = ModelCard(card).data
    assert (head.library_name, head.pipeline_tag) == ("peft", "text-generation")
    assert head.tags == ["fedtt-lightning", "federated-learning", "tt_adapter"]
    assert head.base_model is None and backbones["llama"] in rows["base model"]


def test_of_a_run_that_was_not_federated(train: Callable[..., Any], tmp_path: Path) -> None:
    method = (peft.LoraConfig, {"r": 4, "target_modules": ["query"]})
    _, ckpt, config = train("bert", method, num_labels=3)
    card = export(ckpt, tmp_path / "out", "--config", str(config))
    for word in ("rounds", "clients", "ε", "val_", "privacy"):
        assert f"| {word}" not in card
    assert "num_labels=3" in card and "import fedtt_lightning" not in card
    shown = json.loads(card.split("```json\n")[1].split("```")[0])
    assert (shown["r"], shown["target_modules"]) == (4, ["query"]) and "lora_dropout" not in shown
    saved = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert set(saved["modules_to_save"]) >= {"classifier", "bert.pooler.dense"}


def test_a_base_model_of_the_hub_is_in_the_front_matter(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    from dataclasses import replace

    from fedtt_lightning.export.model_card import model_card
    from fedtt_lightning.export.trained_run import load_run

    _, ckpt, config = train("llama", (TTAdapterConfig, {"rank": 3, "bottleneck": 16}))
    run = load_run(ckpt, ["--config", str(config)])
    card = model_card(replace(run, backbone="somebody/llama"), "adapter", [])
    assert ModelCard(card).data.base_model == "somebody/llama"
    assert 'AutoModelForCausalLM.from_pretrained("somebody/llama", dtype="bfloat16")' in card
    whole = ModelCard(model_card(run, "model", [])).data
    assert (whole.library_name, whole.base_model) == ("transformers", None)
