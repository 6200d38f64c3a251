"""Folders as runs leave them, with numbers that a test chooses."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

NOT_A_NUMBER = float("nan")


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def write_rounds(folder: Path, scores: Sequence[float], first: int = 1, **more: float) -> None:
    """Write metrics.csv as CSVLogger does: validation and the round's numbers on lines apart."""
    rows: list[dict[str, object]] = []
    for epoch, score in enumerate(scores, first - 1):
        total = {f"comm/{way}_bytes_total": 1000.0 * (epoch + 1) for way in ("upload", "download")}
        rows.append({"epoch": epoch, "step": 10 * epoch + 9, "val_acc": score, "val_loss": 0.5})
        rows.append({"epoch": epoch, "step": 10 * epoch + 9, "fed/drift": 0.5, **total, **more})
    write_table(folder / "metrics.csv", rows)


def write_run(
    folder: Path,
    scores: Sequence[float] = (0.5, 0.6, 0.7),
    *,
    point: Mapping[str, str] | None = None,
    seed: int = 0,
    method: str = "FedTT",
    rank: int = 4,
    task: str = "sst2",
    **more: Any,
) -> Path:
    """Write a run that ended, of a study's grid if it has a point; `more` goes into its summary."""
    log = folder / "lightning_logs" / "version_0"
    write_rounds(log, scores)
    peft = {"class_path": "fedtt_lightning.TTAdapterConfig", "init_args": {"rank": rank}}
    config = {
        "seed_everything": seed,
        "trainer": {"default_root_dir": str(folder), "max_epochs": len(scores)},
        "model": {"class_path": "fedtt_lightning.SequenceClassifier", "init_args": {"peft": peft}},
        "data": {
            "class_path": "fedtt_lightning.GlueData",
            "init_args": {"task": task, "tokenizer": "backbone", "clients": 3},
        },
    }
    (log / "config.yaml").write_text(yaml.safe_dump(config))
    summary = {
        "method": method,
        "rounds": len(scores),
        "trainable_parameters": 2626,
        "upload_bytes_per_client": 500.0,
        "upload_bytes_total": 1000 * len(scores),
        "download_bytes_total": 1000 * len(scores),
        "metrics": {"val_acc": scores[-1], "val_loss": 0.5},
        "seconds": 2.0,
        "first_round": 1,
        "command": f"python -m fedtt_lightning fit --seed_everything {seed}",
        "versions": {"torch": "2.13.0"},
        **more,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    if point is not None:
        (folder / "cell.json").write_text(json.dumps({"point": point, "error": None}))
    rows = [{"client": c, "examples": 10 + c, "bad": c, "good": 10} for c in range(3)]
    write_table(folder / "partition.csv", rows)
    write_table(
        folder / "clients.csv",
        [{"client": c, "examples": 2, "global": (0.9, 0.4, 0.7)[c]} for c in range(3)],
    )
    visits = [{"client": c, "examples": 9, "visits": (3, 1, 3)[c]} for c in range(3)]
    write_table(folder / "participation.csv", visits)
    return folder


def study_score(rank: str, split: str, seed: int) -> float:
    """Return the score that `write_study` gives a run, by its first two choices."""
    return 0.5 + int(rank) / 100 + len(split) / 1000 + seed / 50


def write_study(folder: Path, grid: Mapping[str, list[str]], seeds: int = 2) -> Path:
    """Write a run for each point and seed of a grid whose first axis is the rank."""
    for choices in product(*grid.values()):
        for seed in range(seeds):
            place = folder / "_".join(choices) / f"seed={seed}"
            scores = [0.1, study_score(*choices[:2], seed)]
            point = dict(zip(grid, choices, strict=True))
            write_run(place, scores, seed=seed, rank=int(choices[0]), point=point)
    (folder / "study.json").write_text(json.dumps({"metric": "val_acc", "grid": dict(grid)}))
    return folder
