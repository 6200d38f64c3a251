"""Instructions from two clients' files to written replies, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from byte_tokenizer import byte_tokenizer
from cli_options import ROOT
from fedtt_lightning.__main__ import main
from tiny_models import language_model


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("instruct")
    language_model("llama", vocab_size=300, max_position_embeddings=128).save_pretrained(
        folder / "llama"
    )
    byte_tokenizer().save_pretrained(folder / "llama")
    (folder / "clients").mkdir()
    for client, size in (("a", 6), ("b", 11)):
        rows = [{"instruction": f"why {i}?", "output": "yes " * (i + 1)} for i in range(size)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "clients" / f"{client}.jsonl").write_text(lines)
    return [
        *("--config", str(ROOT / "configs/llama/instruct_fedtt.yaml")),
        *("--model.backbone", str(folder / "llama"), "--model.peft.bottleneck", "16"),
        *("--model.generate_max_tokens", "4", "--data.files", str(folder / "clients")),
        *("--data.holdout", "3", "--data.max_length", "100", "--trainer.accelerator", "cpu"),
        *("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    ]


def fit(options: list[str], folder: Path, *more: str) -> dict[str, float]:
    assert main(["fit", *options, "--trainer.default_root_dir", str(folder), *more]) == 0
    metrics: dict[str, float] = json.loads((folder / "summary.json").read_text())["metrics"]
    return metrics


def test_trained_by_two_clients_and_replying(options: list[str], tmp_path: Path) -> None:
    metrics = fit(options, tmp_path)
    assert metrics["val_perplexity"] > 1
    at = ["--trainer.default_root_dir", str(tmp_path), "--ckpt_path", "last"]
    assert main(["predict", *options, *at]) == 0
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"prediction"}] * 3


def test_packing_trains_the_same(options: list[str], tmp_path: Path) -> None:
    exact = ("--model.dtype", "float32", "--trainer.precision", "64-true")
    plain = fit(options, tmp_path / "plain", *exact)
    packed = fit(options, tmp_path / "packed", *exact, "--data.packing", "true")
    assert packed["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-9)
    assert packed["fed/train_loss"] == pytest.approx(plain["fed/train_loss"], rel=1e-9)
