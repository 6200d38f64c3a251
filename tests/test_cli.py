"""The command line end to end, on a small encoder and texts that are made on the spot."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cli_options import options
from fedtt_lightning.__main__ import main
from launch import launch, run_command

ROOT = Path(__file__).parents[1]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        f"\n  {name} " in shown for name in ("fit", "validate", "test", "predict", "account")
    )
    assert main(["--version"]) == 0
    assert main([]) == 2
    assert main(["fitt"]) == 2
    assert "unknown command 'fitt'" in capsys.readouterr().err
    assert main(["--config", "x.yaml", "fit"]) == 2
    assert "put the command first" in capsys.readouterr().err


def test_help_is_light() -> None:
    code = "import sys; from fedtt_lightning.__main__ import main; main(['--help']); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'numpy')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_every_command(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *options(tiny_backbone, tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "round 3/3" in shown and "FedTT" in shown and "LoRA r=8" in shown
    assert "all 3" in shown, "the table of clients and labels"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["method"] == "FedTT" and summary["uploads"] == 9
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["comm/upload_bytes_total"]]
    assert [float(row["comm/upload_bytes_total"]) for row in rows][-1] == (
        summary["upload_bytes_total"]
    )
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    weights = torch.load(last, weights_only=True)["state_dict"]
    assert any("tt_adapter" in name for name in weights)
    assert not any("word_embeddings" in name for name in weights), "the frozen encoder is left out"

    run = options(tiny_backbone, tmp_path, "--ckpt_path", last)
    assert main(["validate", *run]) == 0
    assert f"{summary['metrics']['val_loss']:.8f}"[:8] in capsys.readouterr().out
    assert main(["test", *run]) == 0
    assert "test_acc" in capsys.readouterr().out
    assert main(["predict", *run]) == 0
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 50
    assert set(json.loads(lines[0])) == {"prediction", "probabilities"}


def test_fedtt_plus_adds_to_the_callbacks(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plus = ["--config", str(ROOT / "callbacks/fedtt_plus.yaml")]
    assert main(["fit", *options(tiny_backbone, tmp_path, *plus)]) == 0
    assert "FedTT+" in capsys.readouterr().out
    saved = yaml.safe_load(next(tmp_path.rglob("config.yaml")).read_text())
    names = [entry["class_path"].rsplit(".", 1)[1] for entry in saved["trainer"]["callbacks"]]
    assert names == ["Communication", "RoundReport", "FederatedCheckpoint", "FactorFreezing"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["upload_bytes_per_client"] < 4 * summary["trainable_parameters"]


def test_any_peft_method_by_class_path(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = ["--model.peft", "peft.LoraConfig", "--model.peft.r", "4"]
    lora += ["--model.peft.target_modules", "[query, value]", "--trainer.max_epochs", "1"]
    assert main(["fit", *options(tiny_backbone, tmp_path, *lora)]) == 0
    assert "LoRA" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["method"] == "LoRA"


def test_print_config(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options(tiny_backbone, tmp_path, "--print_config")])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["max_epochs"] == 3
    assert shown["model"]["init_args"]["peft"]["init_args"]["rank"] >= 1
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.processes
def test_killed_and_resumed_from_the_command_line(tiny_backbone: str, tmp_path: Path) -> None:
    """A process that is killed after its first checkpoint and resumed ends like a whole one."""

    one, two = tmp_path / "whole", tmp_path / "killed"
    more = ["--data.train_size", "600", "--model.peft.dropout", "0.1"]
    assert main(["fit", *options(tiny_backbone, one, *more)]) == 0
    command = ["fit", *options(tiny_backbone, two, *more)]
    dies = [*command, "--trainer.callbacks+", "toy_run.Dies"]
    assert launch(run_command, tmp_path, dies) == [-signal.SIGKILL]
    assert (two / "checkpoints" / "last.ckpt").exists() and not (two / "summary.json").exists()
    assert main([*command, "--ckpt_path", "last"]) == 0

    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    for summary in summaries:
        summary["metrics"].pop("train_loss", None)  # of the last batch that was logged
        for own in ("command", "seconds", "first_round"):  # of a start, not of the run
            summary.pop(own)
    assert summaries[0] == summaries[1]
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (one, two)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "fedtt_lightning", "account", "--family", "llama-2-7b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=60)
    assert errors == b""
