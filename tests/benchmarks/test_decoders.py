"""Rates are chosen by what is held out, and tables say what is there and what is missing."""

import argparse
import json
from pathlib import Path

import decoders
import pytest
import stories
import superglue_prompts
from grid import Cell


def finish(out: Path, one: Cell, **metrics: float) -> None:
    folder = out / one.name
    folder.mkdir(parents=True)
    summary = {"metrics": metrics, "upload_bytes_per_client": 2048}
    (folder / "done.json").write_text(json.dumps({"key": one.key, "summary": summary}))


def test_stories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(out=tmp_path, rounds=2, stories=48)
    method = "FedTT+ r=5"
    tune = stories.tuning(method, "3 clients", args)
    assert tune == stories.tuning(method, "12 clients", args)
    assert not set(tune) & set(stories.tuning(method, "pooled", args))
    for one, perplexity in zip(tune[:2], (5.0, 4.0), strict=True):
        finish(tmp_path, one, val_perplexity=perplexity)
    assert stories.finals(method, "12 clients", args) == []
    finish(tmp_path, tune[2], val_perplexity=6.0)
    final = stories.finals(method, "12 clients", args)
    assert [f"lr={decoders.METHODS[method][2][1]}" in one.name for one in final] == [True] * 3
    for one, perplexity in zip(final, (4.0, 4.5, 5.0), strict=True):
        finish(tmp_path, one, val_perplexity=perplexity)
    finish(tmp_path, stories.finals("base model", "3 clients", args)[0], val_perplexity=6.25)
    stories.table(args)
    out = capsys.readouterr().out
    assert f"| {method} | – | 4.500 ± 0.500 | – | 2.0 |" in out
    assert "| base model | 6.250 (1) | – | – | – |" in out


def test_superglue_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(out=tmp_path, rounds=2, tasks=["cb", "sst2"])
    method = "LoRA r=8"
    for lr, accuracy in zip(decoders.METHODS[method][2], (0.5, 0.6, 0.55), strict=True):
        finish(tmp_path, superglue_prompts.tuning(method, lr, args), val_acc=accuracy)
    final = superglue_prompts.finals("cb", 10, method, args)
    assert len(final) == 3 and all("lr=1e-2" in one.name for one in final)
    finish(tmp_path, final[0], val_acc=0.5, val_f1=0.3)
    finish(tmp_path, superglue_prompts.finals("sst2", 3, "base model", args)[0], val_acc=0.51)
    superglue_prompts.table(args)
    out = capsys.readouterr().out
    assert f"| 10 | {method} | 0.500 (1) / 0.300 (1) | – | 2.0 |" in out
    assert "| | largest class | 0.500 / 0.222 | 0.509 | |" in out
    assert f"{method}: 3e-3 0.500, 1e-2 0.600, 3e-2 0.550\n" in out
    assert "FedTT" not in out


@pytest.mark.processes
def test_a_cell_runs(tmp_path: Path, backbone: str) -> None:
    args = argparse.Namespace(out=tmp_path, rounds=1, stories=24)
    one = stories.cell("base model", "3 clients", "0.0", 0, 0, args)
    assert stories.run_cells([one], tmp_path, "", backbone, 1)
    assert decoders.values(tmp_path, [one], "val_perplexity")[0] > 1


@pytest.fixture
def backbone(tmp_path: Path) -> str:
    from byte_tokenizer import byte_tokenizer
    from tiny_models import language_model

    model = language_model("llama", vocab_size=300, max_position_embeddings=300)
    model.save_pretrained(tmp_path / "llama")
    byte_tokenizer().save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")
