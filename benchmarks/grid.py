"""Cells of a benchmark: runs named by their options, many in one process, each kept once done."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_CELLS_A_WORKER = 150  # a fresh process now and then gives back what libraries have piled up


@dataclass(frozen=True)
class Cell:
    """One `fit`: a folder's name, config files (relative to the repository) and options.

    `{data}` in an option stands for the folder of the data, which is no part of what a cell is.
    """

    name: str
    configs: tuple[str, ...] = field(repr=False)
    options: tuple[str, ...] = field(repr=False)

    @property
    def key(self) -> str:
        """A hash of all that decides the result: options, and what the config files say."""
        import yaml

        contents = [yaml.safe_load((ROOT / config).read_text()) for config in self.configs]
        text = json.dumps([self.options, contents], sort_keys=True, default=str)
        return blake2b(text.encode(), digest_size=8).hexdigest()

    def finished(self, out: Path) -> dict[str, Any] | None:
        """Return the record of the run if it finished with these very options."""
        done = out / self.name / "done.json"
        if not done.is_file():
            return None
        record: dict[str, Any] = json.loads(done.read_text())
        return record if record["key"] == self.key else None

    def arguments(self, out: Path, data: str, backbone: str) -> list[str]:
        """Return the arguments of `python -m fedtt_lightning` that run this cell."""
        configs = [part for config in self.configs for part in ("--config", str(ROOT / config))]
        paths = ["--model.backbone", backbone, "--trainer.default_root_dir", str(out / self.name)]
        options = [option.replace("{data}", data) for option in self.options]
        return ["fit", *configs, *options, *paths]


def run_cells(cells: Sequence[Cell], out: Path, data: str, backbone: str, jobs: int) -> bool:
    """Run the cells that are not finished, in their order; tell whether all went well.

    Workers run cell after cell, one thread each, so that imports are paid once a process.
    """
    todo = [cell for cell in cells if cell.finished(out) is None]
    if not todo:
        return True
    out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the spawned workers import torch
    start, good = time.monotonic(), True
    with ProcessPoolExecutor(
        min(jobs, len(todo)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_quiet,
        initargs=(out,),
        max_tasks_per_child=_CELLS_A_WORKER,
    ) as pool:
        runs = {pool.submit(_run, cell, out, data, backbone): cell for cell in todo}
        for number, run in enumerate(as_completed(runs), 1):
            record, cell = run.result(), runs[run]
            good = good and "error" not in record
            result = record.get("error") or _score(record["summary"]["metrics"])
            left = (time.monotonic() - start) / number * (len(todo) - number) / 60
            print(
                f"[{number}/{len(todo)}, {left:.0f} min left] {cell.name}: {result} "
                f"in {record['seconds']:.1f} s",
                flush=True,
            )
    return good


def _score(metrics: dict[str, float]) -> str:
    return f"{metrics.get('val_acc', metrics.get('val_perplexity')):.3f}"


def _quiet(out: Path) -> None:
    """Send what the runs of this worker print to a file."""
    log = os.open(out / f"worker-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _run(cell: Cell, out: Path, data: str, backbone: str) -> dict[str, Any]:
    from fedtt_lightning.cli import FederatedCLI

    start = time.monotonic()
    folder = out / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"== {cell.name}", flush=True)
    try:
        cli = FederatedCLI(cell.arguments(out, data, backbone))
        record = {
            "key": cell.key,
            "seconds": time.monotonic() - start,
            "head_parameters": getattr(cli.model, "fresh_parameters", None),
            "summary": json.loads((folder / "summary.json").read_text()),
        }
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=sys.stdout)
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        return {"seconds": time.monotonic() - start, "error": f"FAILED: {reason}"}
    partial = folder / ".done.json.partial"
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(folder / "done.json")
    return record
