"""Small models on disk, and checkpoints of a few steps of training with configs beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.modules import CausalLM, SequenceClassifier
from tiny_models import CONFIGS, batch, language_model

MODULES = {"bert": SequenceClassifier, "llama": CausalLM}
Trained = tuple[LightningModule, Path, Path]  # module, checkpoint, config


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of an encoder without pooler and head, and of a LLaMA with a tokenizer."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(1)
    hf.BertModel(CONFIGS["bert"](), add_pooling_layer=False).save_pretrained(folder / "bert")
    language_model("llama", vocab_size=300).save_pretrained(folder / "llama")
    byte_tokenizer().save_pretrained(folder / "llama")
    return {name: str(folder / name) for name in MODULES}


@pytest.fixture
def train(backbones: dict[str, str], tmp_path: Path) -> Callable[..., Trained]:
    """Train a family with a PEFT method (class and arguments, or None) for three steps."""

    def trained(
        family: str, peft: tuple[type, dict[str, Any]] | None, *callbacks: Callback, **options: Any
    ) -> Trained:
        torch.manual_seed(2)
        module = MODULES[family](backbones[family], peft and peft[0](**peft[1]), lr=0.05, **options)
        trainer = Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        )
        rows = batch()
        if family == "llama":
            rows["labels"] = rows["input_ids"]
        trainer.fit(module, DataLoader([rows], batch_size=None))
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        init_args = {"backbone": backbones[family], **options, "peft": None}
        if peft is not None:
            known = "fedtt_lightning" if peft[0] is TTAdapterConfig else "peft"
            init_args["peft"] = {
                "class_path": f"{known}.{peft[0].__name__}", "init_args": peft[1],
            }  # fmt: skip
        model = {"class_path": f"fedtt_lightning.{type(module).__name__}", "init_args": init_args}
        data = {"class_path": "fedtt_lightning.StoryData"}  # which nobody makes
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
        return module.eval(), tmp_path / "x.ckpt", tmp_path / "config.yaml"

    return trained
