"""Clients are judged by the candidates that are chosen for their held-out prompts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from byte_tokenizer import byte_tokenizer
from fedtt_lightning import FederatedRounds
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.callbacks import ClientEvaluation
from fedtt_lightning.data import SuperGlueData
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules import CausalLM
from quiet_trainer import quiet_trainer
from tiny_models import language_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA, 24 questions of BoolQ and 24 of COPA, and as many of ReCoRD about one passage."""
    root = tmp_path_factory.mktemp("choices")
    model = language_model(
        "llama", vocab_size=300, max_position_embeddings=300, initializer_range=0.3
    )
    model.save_pretrained(root / "llama")
    byte_tokenizer().save_pretrained(root / "llama")
    text = "Ann and Bob saw Cy"
    entities = [{"start": at, "end": end} for at, end in ((0, 2), (8, 10), (16, 17))]
    rows: dict[str, list[Any]] = {"BoolQ": [], "COPA": [], "ReCoRD": []}
    for i in range(24):
        rows["BoolQ"].append({"question": f"is {i}", "passage": f"It is {i}.", "label": i % 3 > 0})
        choices = {"choice1": f"It was {i}.", "choice2": f"Ann saw {i + 1} and Bob."}
        copa = {"premise": f"It is {i}.", "question": "cause", "label": i % 2}
        rows["COPA"].append({**copa, **choices})
        right = [{"text": name} for name in (["Bob"], ["Cy", "Ann"])[i % 2]]
        queries = [{"query": f"{i} @placeholder", "idx": i, "answers": right}]
        passage = {"text": text, "entities": entities}
        rows["ReCoRD"].append({"idx": i, "passage": passage, "qas": queries})
    for task, lines in rows.items():
        (root / task).mkdir()
        for split in ("train", "val"):
            written = "\n".join(map(json.dumps, lines))
            (root / task / f"{split}.jsonl").write_text(written)
    return root


def is_right(model: torch.nn.Module, data: Any, number: int) -> bool:
    """Whether the best candidate is a right one, each scored by itself over the whole text."""
    prompt = data._read("train")[number]
    tokenizer, scores = byte_tokenizer(), []
    for candidate in prompt.candidates:
        ids = torch.tensor(tokenizer(prompt.context + prompt.question + candidate)["input_ids"])
        start = len(tokenizer(prompt.context + prompt.question)["input_ids"])
        with torch.no_grad():
            logs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        by_token = logs.gather(1, ids[1:, None])[start - 1 :]
        scores.append(float(by_token.mean()))
    return prompt.candidates[scores.index(max(scores))] in prompt.answers


@pytest.mark.parametrize(
    ("task", "packing"), [("boolq", False), ("boolq", True), ("copa", False), ("record", False)]
)
def test_a_clients_score_is_its_share_of_right_choices(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, packing: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options: dict[str, Any] = {"clients": 2, "client_holdout": 0.5, "eval_limit": 2}
    llama = str(folder / "llama")
    data = SuperGlueData(task, llama, str(folder), packing=packing, batch_size=5, **options)
    config = TTAdapterConfig(rank=2, bottleneck=8, init="loretta")
    torch.manual_seed(1)
    module = CausalLM(llama, config, task=task, lr=0.01, dtype="float32")
    trainer = quiet_trainer(tmp_path, 1, [FederatedRounds(), ClientEvaluation()])
    trainer.fit(module, datamodule=data)
    assert data.held_out is not None
    module.double().eval()
    expected = [
        [is_right(module.model, data, int(number)) for number in numbers]
        for numbers in data.held_out
    ]
    rows = list(csv.DictReader((tmp_path / "clients.csv").open()))
    assert [int(row["examples"]) for row in rows] == [6, 6]
    shares = [sum(client) / 6 for client in expected]
    assert [float(row["global"]) for row in rows] == pytest.approx(shares)
    assert 0 < sum(shares) < 2


def test_choices_that_no_score_tells_apart_are_found_before_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    same = {"premise": "It is.", "question": "cause", "label": 0, "choice1": "a", "choice2": "a"}
    (tmp_path / "COPA").mkdir()
    (tmp_path / "COPA/val.jsonl").write_text((folder / "COPA/val.jsonl").read_text())
    (tmp_path / "COPA/train.jsonl").write_text("\n".join([json.dumps(same)] * 4))
    llama = str(folder / "llama")
    data = SuperGlueData("copa", llama, str(tmp_path), clients=1, client_holdout=0.5)
    module = CausalLM(llama, TTAdapterConfig(rank=2, bottleneck=8), task="copa")
    trainer = quiet_trainer(tmp_path, 1, [FederatedRounds(), ClientEvaluation()])
    with pytest.raises(ConfigError, match=r"train\.jsonl:\d: the candidates 'a' and 'a' have the"):
        trainer.fit(module, datamodule=data)
    assert trainer.global_step == 0
