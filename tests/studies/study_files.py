"""Studies of tests: few cells, of a second each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedtt_lightning.__main__ import main

ROOT = Path(__file__).parents[2]


def said(folder: Path, backbone: str = "builtin", **changes: Any) -> dict[str, Any]:
    """Return what a study of two ranks and two seeds says, with changed keys."""
    return {
        "configs": [str(ROOT / "configs/quickstart.yaml")],
        "options": {
            "model.backbone": backbone,
            "trainer.max_epochs": 1,
            "data.clients": 2,
            "data.train_size": 64,
            "data.validation_size": 50,
            "data.test_size": 10,
        },
        "grid": {"model.peft.rank": [1, 2]},
        "seeds": [0, 1],
        "metric": "val_acc",
        "folder": str(folder / "runs"),
    } | changes


def write(folder: Path, study: dict[str, Any]) -> str:
    """Write a study file and return its path."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return str(path)


def run(path: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any]:
    """Return the exit code of `study` and what it prints as JSON."""
    code = main(["study", "--config", path, "--jobs", "2", "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def fit(study: dict[str, Any], folder: Path, *more: str) -> dict[str, Any]:
    """Return the summary of a plain `fit` with the options of a study."""
    options = [f"--{key}={value}" for key, value in study["options"].items()]
    where = ["--trainer.default_root_dir", str(folder), "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", study["configs"][0], *options, *where, *more]) == 0
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary
