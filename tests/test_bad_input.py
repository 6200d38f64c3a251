"""Bad input gets a clear line and exit code 2, never a traceback, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli_options import options
from fedtt_lightning.__main__ import main

ROOT = Path(__file__).parents[1]
PLUS = str(ROOT / "callbacks/fedtt_plus.yaml")

CASES: dict[str, tuple[list[str], str]] = {
    "unknown key": (["--trainer.max_epoch_s", "3"], "'trainer.max_epoch_s'; did you mean"),
    "unknown argument": (["--model.ranks", "3"], "model.ranks: "),
    "unknown adapter argument": (["--model.peft.ranks", "3"], "did you mean 'rank'"),
    "unknown class": (["--model", "NoSuchModule"], "NoSuchModule"),
    "class of another kind": (["--model", "torch.nn.Linear"], "torch.nn.Linear is no Lightning"),
    "callback of the twin namespace": (
        ["--trainer.callbacks+", "pytorch_lightning.callbacks.Timer"],
        "pytorch_lightning.callbacks.Timer is no Callback of lightning: it comes from",
    ),
    "wrong type": (["--model.lr", "fast"], "model.lr: Expected a <class 'float'>"),
    "no such file": (["--config", "absent.yaml"], "absent.yaml"),
    "rank too large": (["--model.peft.rank", "33"], "rank"),
    "modes that do not fit": (["--model.peft.down_modes", "[7, 5]"], "down_modes"),
    "no such target": (["--model.peft.target_modules", "[querry]"], "querry"),
    "more clients than examples": (["--data.clients", "500"], "500"),
    "empty client": (
        [
            "--data.partition", "fedtt_lightning.data.LabelShares",
            "--data.partition.shares", "[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]",
        ],
        "shares",
    ),
    "cohort too large": (["--federation.sampler.clients_per_round", "4"], "clients_per_round is 4"),
    "validation inside a round": (["--trainer.val_check_interval", "0.5"], "val_check_interval"),
    "weight averaging": (
        ["--trainer.callbacks+", "EMAWeightAveraging"],
        "EMAWeightAveraging in trainer.callbacks would average across clients",
    ),
    "federation twice": (
        ["--trainer.callbacks+", "fedtt_lightning.FederatedRounds"],
        "FederatedRounds",
    ),
    "unknown accelerator": (["--trainer.accelerator", "abacus"], "trainer: "),
    "unknown strategy": (["--trainer.strategy", "nonsense"], "trainer: "),
    "strategy that splits weights": (["--trainer.strategy", "fsdp"], "trainer"),
    "best in a fresh process": (["--ckpt_path", "best"], "ckpt_path: "),
    "built-in texts for another model": (
        ["--model.backbone", "bert-base-uncased"],
        "BuiltinText goes with model.backbone=builtin",
    ),
    "no such checkpoint": (["--ckpt_path", "absent.ckpt"], "there is no checkpoint absent.ckpt"),
    "output is a file": (["--trainer.default_root_dir", __file__], "test_bad_input.py"),
    "freezing without factors": (
        ["--config", PLUS, "--model.peft", "peft.LoraConfig"],
        "needs tensor-train factors",
    ),
}  # fmt: skip


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(("more", "message"), CASES.values(), ids=CASES.keys())
def test_one_line(
    more: list[str],
    message: str,
    tiny_backbone: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fit", *options(tiny_backbone, tmp_path, *more)]) == 2
    (line,) = lines(capsys)
    assert message in line
    assert len(line) < 400
    assert not list(tmp_path.rglob("*.ckpt")) and not (tmp_path / "summary.json").exists()


def test_the_line_of_a_config_file_is_named(
    tiny_backbone: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("trainer:\n  max_epochs: 3\n  acelerator: cpu\n")
    run = [
        option for option in options(tiny_backbone, tmp_path) if option != "--trainer.accelerator"
    ]
    assert main(["fit", *run, "--config", str(config)]) == 2
    (line,) = lines(capsys)
    assert f"{config}:3: " in line and "acelerator" in line


def test_checkpoints_that_do_not_fit(
    tiny_backbone: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = options(tiny_backbone, tmp_path, "--trainer.max_epochs", "1")
    assert main(["fit", *run]) == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    for more, message in (
        (["--model.peft.rank", "2"], "the checkpoint is of another model or method"),
        (["--config", PLUS], "the checkpoint was trained with TrainAll()"),
        (["--seed_everything", "9"], "seed 0, this run has seed 9"),
        (["--model.peft", "peft.LoraConfig"], "the checkpoint is of another model or method"),
    ):
        assert main(["fit", *run, *more, "--ckpt_path", str(last)]) == 2
        (line,) = lines(capsys)
        assert message in line
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    torch.save({"state_dict": {}, "evil": Path}, tmp_path / "pickle.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for path, message in (
        (cut, "no whole checkpoint"),
        (tmp_path / "pickle.ckpt", "is not read"),
        (tmp_path / "other.ckpt", "is no checkpoint of Lightning"),
    ):
        for command in ("fit", "validate"):
            assert main([command, *run, "--ckpt_path", str(path)]) == 2
            (line,) = lines(capsys)
            assert message in line


def test_nothing_is_evaluated_without_the_last_checkpoint(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = options(tiny_backbone, tmp_path, "--ckpt_path", "last")
    for command in ("validate", "test", "predict"):
        assert main([command, *run]) == 2
        (line,) = lines(capsys)
        assert "ckpt_path is last, but there is none" in line


def test_config_that_is_no_text(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00trainer")
    run = options(tiny_backbone, tmp_path, "--config", str(tmp_path / "binary.yaml"))
    assert main(["fit", *run]) == 2
    assert len(lines(capsys)) == 1


def test_stopping_by_a_metric_that_nobody_logs(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning can tell only after the first round."""
    early = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "nope"]
    assert main(["fit", *options(tiny_backbone, tmp_path, *early)]) == 2
    (line,) = lines(capsys)
    assert "`nope` which is not available" in line
