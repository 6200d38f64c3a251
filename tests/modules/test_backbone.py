"""Loading backbones, and the one line that comes instead of one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules.backbone import load_backbone


def test_encoder_weights_are_those_of_the_file(bert: str) -> None:
    backbone = load_backbone(bert, num_labels=3)
    saved = load_file(Path(bert) / "model.safetensors")
    own = dict(backbone.model.named_parameters())
    assert len(saved) + 4 == len(own)
    for name, value in saved.items():
        assert torch.equal(own[f"bert.{name}"], value), name
    assert backbone.fresh == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert own["classifier.weight"].shape == (3, 32)


def test_half_precision_files_are_loaded_in_float32(bert: str, tmp_path: Path) -> None:
    load_backbone(bert, 2).model.half().save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), 2)
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert backbone.fresh == frozenset()


def test_head_of_another_task_is_replaced(bert: str, tmp_path: Path) -> None:
    load_backbone(bert, num_labels=5).model.save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), num_labels=2)
    assert backbone.fresh == {"classifier.weight", "classifier.bias"}


def test_real_pretrained_models_load(bert_dir: Path, llama_dir: Path) -> None:
    assert len(load_backbone(str(bert_dir), 2).fresh) == 4
    llama = load_backbone(str(llama_dir), 2)
    assert llama.fresh == {"score.weight"}
    assert llama.model.config.pad_token_id is not None


def test_logging_is_as_it_was_before(bert: str) -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    load_backbone(bert, 2)
    with pytest.raises(ConfigError):
        load_backbone("./nowhere", 2)
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    assert before == after


def broken(bert: str, folder: Path, what: str) -> str:
    shutil.copytree(bert, folder, dirs_exist_ok=True)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif what == "no config":
        config.unlink()
    elif what == "no weights":
        weights.unlink()
    elif what == "not json":
        config.write_text("{")
    else:
        changed = json.loads(config.read_text()) | {what: 96 if what == "hidden_size" else 4}
        config.write_text(json.dumps(changed))
    return str(folder)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("truncated", "cannot be read"),
        ("no config", "config.json"),
        ("no weights", "cannot be read"),
        ("not json", "cannot be read"),
        ("hidden_size", "do not fit its config.json"),
        ("num_hidden_layers", "bert.encoder.layer.2"),
    ],
)
def test_broken_folder_is_one_line(bert: str, tmp_path: Path, what: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_backbone(broken(bert, tmp_path, what), 2)
    message = str(caught.value)
    assert message.startswith("model.backbone=")
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("./no/such/folder", "no such folder"),
        ("/no/such/folder", "no such folder"),
        ("no-such-owner/no-such-model", "a folder that holds the model"),
        ("nosuchmodel", "a folder that holds the model"),
    ],
)
def test_missing_model_says_what_to_give(name: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"model.backbone={name}.*{named}"):
        load_backbone(name, 2)
