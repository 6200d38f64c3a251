"""Loading causal language models, and the one line that comes instead of one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules.backbone import load_causal_lm
from tiny_models import classifier


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_and_head_are_those_of_the_file(decoder: Callable[..., str], dtype: str) -> None:
    model = load_causal_lm(decoder("llama"), dtype)
    saved = load_file(Path(decoder("llama")) / "model.safetensors")
    own = dict(model.named_parameters())
    assert set(own) == set(saved) and "lm_head.weight" in own
    for name, value in saved.items():
        assert torch.equal(own[name], value.to(getattr(torch, dtype))), name


def test_auto_is_the_files_own(decoder: Callable[..., str], tmp_path: Path) -> None:
    load_causal_lm(decoder("llama"), "float16").save_pretrained(tmp_path)
    dtypes = {p.dtype for p in load_causal_lm(str(tmp_path), "auto").parameters()}
    assert dtypes == {torch.float16}


def test_attention_is_chosen(decoder: Callable[..., str]) -> None:
    for kind in ("eager", "sdpa"):
        model = load_causal_lm(decoder("llama"), attn_implementation=kind)
        assert model.config._attn_implementation == kind


def refused(*args: str, **options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_causal_lm(*args, **options)
    message = str(caught.value)
    assert message.startswith("model.") and "\n" not in message
    return message


def test_models_that_are_no_causal_language_model(bert: str, tmp_path: Path) -> None:
    assert "a bert sees the words" in refused(bert)
    assert "encoder" in refused("builtin")
    classifier("llama").save_pretrained(tmp_path)  # has no language-model head
    assert "lm_head.weight" in refused(str(tmp_path))


def test_options_that_cannot_be_had(decoder: Callable[..., str]) -> None:
    folder = decoder("llama")
    assert "model.dtype is 'int3'" in refused(folder, "int3")
    assert "16bit is none of 8bit, 4bit" in refused(folder, quantization="16bit")
    wanted = "GPU" if shutil.which("nvidia-smi") is None else "model"
    for kind in ("8bit", "4bit"):
        message = refused(folder, quantization=kind)
        assert f"model.quantization={kind}" in message
        assert "bitsandbytes" in message or wanted in message
    assert "nonsense" in refused(folder, attn_implementation="nonsense")


def test_broken_folders(decoder: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(decoder("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "model.layers.2" in refused(str(folder))
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert "cannot be read" in refused(str(folder))
    (folder / "config.json").unlink()
    assert "config.json" in refused(str(folder))
    assert "no such folder" in refused("./no/such/folder")
    assert "a folder that holds the model" in refused("no-such-owner/no-such-model")


class Gated(BaseHTTPRequestHandler):
    """Answers as the hub does for a model whose terms nobody has accepted."""

    def do_HEAD(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this model is restricted.")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gated_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Gated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield
    server.shutdown()


@pytest.mark.usefixtures("gated_hub")
def test_a_gated_model_without_a_token_says_how_to_get_it() -> None:
    message = refused("owner/gated-model")
    assert "gated" in message and "hf auth login" in message and "folder" in message
