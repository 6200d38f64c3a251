"""The command: a folder is whole or not there, and what cannot be done is said in one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml

from fedtt_lightning.__main__ import main
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.export.adapter_folder import whole_folder

TT = (TTAdapterConfig, {"rank": 3, "bottleneck": 16})


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(["export", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1, captured.err
    return captured.err


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["export", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("--ckpt", "--config", "--with-base", "--overwrite"))
    assert main([]) == 2
    assert "export" in capsys.readouterr().out


def test_a_folder_is_replaced_only_if_asked(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ckpt, config = train("llama", TT)
    out = tmp_path / "out"
    out.mkdir()
    argv = ["--ckpt", str(ckpt), "--config", str(config), "--output", str(out)]
    assert main(["export", *argv]) == 0  # an empty folder is as good as none
    (out / "mine.txt").write_text("keep")
    assert "is not empty" in failed(capsys, *argv)
    assert (out / "mine.txt").read_text() == "keep"
    assert main(["export", *argv, "--overwrite"]) == 0
    assert not (out / "mine.txt").exists() and (out / "adapter_config.json").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    argv[-1] = str(ckpt.parent)
    assert "holds other files and no model" in failed(capsys, *argv, "--overwrite")
    assert ckpt.exists()
    argv[-1] = str(config)
    assert "is a file" in failed(capsys, *argv)


def test_what_the_export_is_made_from_is_not_replaced(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ckpt, config = train("llama", TT)
    home = tmp_path / "home"
    backbone = home / "llama"
    written = yaml.safe_load(config.read_text())
    shutil.copytree(written["model"]["init_args"]["backbone"], backbone)
    written["model"]["init_args"]["backbone"] = str(backbone)
    config.write_text(yaml.safe_dump(written))
    argv = ["--config", str(config), "--overwrite"]
    shutil.copy(ckpt, backbone / "x.ckpt")
    (home / "config.json").touch()  # as if it held a model, too
    before = sorted(tmp_path.rglob("*"))
    for output in (backbone, home, tmp_path / "home/other/../llama"):
        named = failed(capsys, *argv, "--ckpt", str(ckpt), "--output", str(output))
        assert "would replace what model.backbone names" in named
    named = failed(capsys, *argv, "--ckpt", f"{backbone}/x.ckpt", "--output", str(backbone))
    assert "would replace what --ckpt names" in named
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("former", [False, True])
def test_a_failure_leaves_all_as_it_was(tmp_path: Path, former: bool) -> None:
    out = tmp_path / "deep" / "out"
    if former:
        out.mkdir(parents=True)
        (out / "a").write_text("old")
        (out / "adapter_config.json").touch()
    with pytest.raises(FileNotFoundError), whole_folder(out, former) as folder:
        (folder / "a").write_text((folder / "nothing").read_text())
    assert os.listdir(out.parent) == (["out"] if former else [])
    assert not former or (out / "a").read_text() == "old"


def test_what_does_not_fit_is_said(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ckpt, config = train("llama", TT)
    out = tmp_path / "out"
    base = ["--ckpt", str(ckpt), "--output", str(out)]
    full = [*base, "--config", str(config)]
    assert "--config is missing" in failed(capsys, *base)
    assert "--ckpt" in failed(capsys, "--output", str(out), "--config", str(config))
    assert "no checkpoint" in failed(capsys, "--ckpt", "gone.ckpt", *full[2:])
    assert "gone.yaml" in failed(capsys, *base, "--config", "gone.yaml")
    assert "rang" in failed(capsys, *full, "--model.peft.rang", "3")
    assert "another model or method" in failed(capsys, *full, "--model.peft.rank", "2")
    assert "model.backbone=/gone" in failed(capsys, *full, "--model.backbone", "/gone")
    torch.save({"state_dict": {}, "code": os.system}, tmp_path / "evil.ckpt")
    assert "is not read" in failed(capsys, "--ckpt", str(tmp_path / "evil.ckpt"), *full[2:])
    assert not out.exists()


def test_prompts_go_without_the_base(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ckpt, config = train("llama", (peft.PromptTuningConfig, {"num_virtual_tokens": 2}))
    argv = ["--ckpt", str(ckpt), "--config", str(config), "--output", str(tmp_path / "out")]
    assert "cannot put PromptTuningConfig into a model" in failed(capsys, *argv, "--with-base")


def test_a_module_without_a_model_is_refused(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ckpt, config = train("llama", TT)
    written = yaml.safe_load(config.read_text())
    written["model"] = {"class_path": "lightning.pytorch.demos.boring_classes.DemoModel"}
    config.write_text(yaml.safe_dump(written))
    argv = ["--ckpt", str(ckpt), "--config", str(config), "--output", str(tmp_path / "out")]
    assert "has no PEFT model" in failed(capsys, *argv)
