"""What was exported, loaded as its card says, predicts what the module did."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from transformers import AutoModelForCausalLM

from fedtt_lightning.__main__ import main
from fedtt_lightning.adapters import TTAdapterConfig
from tiny_models import batch

ROOT = Path(__file__).parents[2]
TT = (TTAdapterConfig, {"rank": 3, "bottleneck": 16})
LORA = (peft.LoraConfig, {"r": 4})
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "bert-tt": ("bert", TT, {"num_labels": 3}),
    "bert-tt-head": ("bert", (TTAdapterConfig, {**TT[1], "tt_classifier": True}), {}),
    "bert-lora": ("bert", LORA, {}),  # its pooler is fresh, and trains without PEFT's knowledge
    "bert-prefix": ("bert", (peft.PrefixTuningConfig, {"num_virtual_tokens": 3}), {}),
    "bert-full": ("bert", None, {"num_labels": 3}),
    "bert-regression": ("bert", LORA, {"num_labels": 1, "task": "stsb"}),
    "llama-tt": ("llama", TT, {"dtype": "float32"}),
    "llama-tt-bf16": ("llama", TT, {}),
    "llama-lora": ("llama", LORA, {"dtype": "float32"}),
    "llama-lora-bf16": ("llama", LORA, {}),
    "llama-prompt": (
        "llama",
        (peft.PromptTuningConfig, {"num_virtual_tokens": 3}),
        {"dtype": "float32"},
    ),
    "llama-full": ("llama", None, {}),
}
INPUTS = {name: batch()[name] for name in ("input_ids", "attention_mask")}


def export(ckpt: Path, config: Path, output: Path, *more: str) -> int:
    names = ["--ckpt", str(ckpt), "--config", str(config), "--output", str(output)]
    return main(["export", *names, *more])


def loading(folder: Path) -> str:
    """The lines of the folder's card that load it."""
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code.replace("FOLDER", str(folder))


def loading_in_transformers(folder: Path) -> str:
    """The lines that load it as the card says that transformers does by itself."""
    card = (folder / "README.md").read_text()
    words = r"^`(AutoModelForCausalLM.*)` of transformers loads it too(?:, after `(.*?)`)?, in"
    ((call, before),) = re.findall(words, card, re.MULTILINE)
    call = call.replace("FOLDER", str(folder))
    return f"{before}\nfrom transformers import AutoModelForCausalLM\nmodel = {call}"


def logits(module: LightningModule) -> Tensor:
    with torch.no_grad():
        return module(**INPUTS)


def loaded_logits(folder: Path) -> Tensor:
    names: dict[str, Any] = {}
    exec(loading(folder), names)
    with torch.no_grad():
        return names["model"].eval()(**INPUTS).logits


@pytest.mark.parametrize("case", CASES)
def test_the_card_loads_the_same_model(
    train: Callable[..., Any], tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    family, method, options = CASES[case]
    module, ckpt, config = train(family, method, **options)
    assert export(ckpt, config, tmp_path / "out", "--json") == 0
    written = json.loads(capsys.readouterr().out)
    assert written["files"] == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written["kind"] == ("model" if method is None else "adapter")
    assert ("adapter_model.safetensors" in written["files"]) == (method is not None)
    torch.testing.assert_close(loaded_logits(tmp_path / "out"), logits(module), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["llama-tt", "llama-tt-bf16", "llama-lora", "llama-prompt"])
def test_transformers_loads_the_base_that_the_adapter_names(
    train: Callable[..., Any], tmp_path: Path, case: str
) -> None:
    family, method, options = CASES[case]
    module, ckpt, config = train(family, method, **options)
    assert export(ckpt, config, tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    calls = re.findall(r"^`(AutoModelForCausalLM.*)` of transformers loads it too", card, re.M)
    assert len(calls) == (case != "llama-prompt")
    for call in calls:
        names = {"AutoModelForCausalLM": AutoModelForCausalLM}
        model = eval(call.replace("FOLDER", str(tmp_path / "out")), names).eval()
        with torch.no_grad():
            found = model(**INPUTS).logits
        torch.testing.assert_close(found, logits(module), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "case", ["bert-tt-head", "bert-lora", "llama-tt", "llama-lora", "llama-tt-bf16"]
)
def test_with_its_base_it_needs_nothing_else(
    train: Callable[..., Any], backbones: dict[str, str], tmp_path: Path, case: str
) -> None:
    family, method, options = CASES[case]
    module, ckpt, config = train(family, method, **options)
    assert export(ckpt, config, tmp_path / "out", "--with-base") == 0
    assert backbones[family] not in loading(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").exists() == (family == "llama")
    named = tmp_path / "out" / "adapter_config.json"
    named.write_text(named.read_text().replace(backbones[family], "/gone"))
    torch.testing.assert_close(loaded_logits(tmp_path / "out"), logits(module), atol=1e-5, rtol=0)


class Merging(Callback):
    """Writes to a frozen weight, and says so as LoRAMerging does."""

    name = "model.base_model.model.model.layers.0.mlp.up_proj.weight"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.get_parameter(self.name).data.mul_(1.5)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: Any) -> None:
        checkpoint["written_weights"] = [self.name]


def test_merged_weights_travel_with_the_base_alone(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, ckpt, config = train("llama", LORA, Merging(), dtype="float32")
    assert export(ckpt, config, tmp_path / "out") == 2
    assert "merged updates" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert export(ckpt, config, tmp_path / "out", "--with-base") == 0
    torch.testing.assert_close(loaded_logits(tmp_path / "out"), logits(module), atol=1e-5, rtol=0)


@pytest.mark.processes
def test_in_a_fresh_process(train: Callable[..., Any], tmp_path: Path) -> None:
    lines, expected = ["import json, torch", "found = []"], []
    ids = INPUTS["input_ids"].tolist()
    steps: list[tuple[str, tuple[str, ...], Callable[[Path], str]]] = [
        ("llama-lora", (), loading_in_transformers),  # before anything imports the adapters
        ("llama-tt", (), loading_in_transformers),
        ("bert-tt-head", (), loading),
        ("llama-tt", ("--with-base",), loading),
        ("llama-lora", (), loading),
    ]
    for number, (case, more, code) in enumerate(steps):
        family, method, options = CASES[case]
        module, ckpt, config = train(family, method, **options)
        folder = tmp_path / f"{number}"
        assert export(ckpt, config, folder, *more) == 0
        lines += [code(folder), f"logits = model.eval()(torch.tensor({ids})).logits"]
        lines += ["found.append(logits.flatten().tolist())"]
        expected.append(logits(module).flatten().tolist())
    lines += ["print(json.dumps(found))"]
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    for found, wanted in zip(json.loads(result.stdout), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)
