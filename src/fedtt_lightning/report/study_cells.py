"""What runs are to a study: where in its grid they lie, and which of them count."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedtt_lightning.report.run_folder import Run, read_mapping


def read_cells(runs: Iterable[Run]) -> None:
    """Give the runs that are cells of a study their places in it, and leave out what is no result.

    That is a cell that failed, one of which no round has ended, and one of an earlier form of the
    study: `study.json` says which cells there are and with which keys, unless an earlier version
    wrote it. A `study.json` that cannot be read is a problem of the study's first run.
    """
    studies: dict[Path, dict[str, Any]] = {}
    for run in runs:
        cell = read_mapping(run, run.folder / "cell.json", json.loads)
        if not isinstance(point := cell.get("point"), dict):
            continue
        run.point = {axis: str(choice) for axis, choice in point.items()}
        if isinstance(folders := cell.get("folders"), dict):
            run.moving = {name: str(folder) for name, folder in folders.items()}
        if error := cell.get("error"):
            _leave_out(run, f"it has failed: {str(error)[:200]}")
        elif not run.summary and not run.series:
            _leave_out(run, "no round of it has ended: left out")
        folder = run.folder.parent.parent  # a cell's folder is STUDY/POINT/SEED
        if folder not in studies:
            studies[folder] = read_mapping(run, folder / "study.json", json.loads)
        run.study_folder, run.study = folder, studies[folder]
        keys = run.study.get("cells")
        name = run.folder.relative_to(folder).as_posix()
        if isinstance(keys, dict) and keys.get(name, "") != cell.get("key"):
            _leave_out(run, "not of the study as study.json now has it: left out")


def _leave_out(run: Run, why: str) -> None:
    run.left_out = True
    run.problems = [why]
