"""Every method's preset through the command line: two rounds, what trains, and its name.

Plain FedTT and LoRA run in test_cli.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_options import ROOT, options
from fedtt_lightning.__main__ import main

HEAD = r"pooler|classifier"
METHODS = {
    # presets: (name in the report, pattern of what trains beside the head)
    ("methods/fedtt", "fedtt_plus_fixed"): ("FedTT+", "core_|bias"),
    ("methods/fedtt", "fedtt_plus_adaptive"): ("FedTT+", "core_|bias"),
    ("methods/fedtt", "fp16_upload"): ("FedTT, Float16", "core_|bias"),
    ("methods/fedtt", "fedtt_plus", "int8_upload"): ("FedTT+, Int8", "core_|bias"),
    ("methods/dense_adapter",): ("dense adapter", "(down|up)_(weight|bias)"),
    ("methods/lora", "ffa_lora"): ("FFA-LoRA", "lora_[AB]"),
    ("methods/lora", "rolora"): ("RoLoRA", "lora_[AB]"),
    ("methods/lora", "bf16_upload"): ("LoRA, BFloat16", "lora_[AB]"),
    ("methods/lora", "topk_upload"): ("LoRA, TopK", "lora_[AB]"),
    ("methods/ia3",): ("(IA)³", "ia3_l"),
    ("methods/prompt_tuning",): ("prompt tuning", "prompt_encoder"),
    ("methods/prefix_tuning",): ("prefix tuning", "prompt_encoder"),
    ("methods/bitfit",): ("BitFit", r"\.bias$"),
    ("methods/head_only",): ("head only", "(?!)"),
    ("methods/full",): ("full fine-tuning", "."),
}


def test_every_preset_is_here() -> None:
    tested = {name for names in METHODS for name in names}
    assert {f"methods/{path.stem}" for path in (ROOT / "configs/methods").glob("*")} <= tested


@pytest.mark.parametrize("presets", METHODS, ids="+".join)
def test_two_rounds(presets: tuple[str, ...], tiny_backbone: str, tmp_path: Path) -> None:
    name, pattern = METHODS[presets]
    more: list[str] = []
    for preset in presets:
        folder = ROOT / ("configs" if preset.startswith("methods/") else "callbacks")
        more += ["--config", str(folder / f"{preset}.yaml")]
    more += ["--data.train_size", "60", "--data.batch_size", "10", "--trainer.max_epochs", "2"]
    assert main(["fit", *options(tiny_backbone, tmp_path, *more)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["method"], summary["rounds"], summary["uploads"]) == (name, 2, 6)
    checkpoint: dict[str, Any] = torch.load(
        tmp_path / "checkpoints" / "last.ckpt", weights_only=True
    )
    unused = ("original_module.", "base_layer.")  # fresh, so in no other file, but never trained
    saved = {n for n in checkpoint["state_dict"] if not any(part in n for part in unused)}
    trained = [n for n in saved if re.search(f"{HEAD}|{pattern}", n)]
    assert saved == set(trained)
    assert any(re.search(pattern, n) for n in saved) or pattern == "(?!)"
    parameters = sum(checkpoint["state_dict"][n].numel() for n in trained)
    assert parameters == summary["trainable_parameters"]
