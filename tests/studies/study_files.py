"""Study files of tests: few cells, of a second each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

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
