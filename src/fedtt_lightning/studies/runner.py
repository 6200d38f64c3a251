"""The cells of a study side by side: what is finished is kept, what fails is told at the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from tqdm import tqdm

from fedtt_lightning.cli_classes import nearest
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cell_process import CellProcess
from fedtt_lightning.studies.cells import Cell


class StudyRunner:
    """Runs the cells that have not finished, as many at a time as there are jobs.

    Args:
        cells: in the order in which they are started.
        metric: shown of each cell; the study stops if the first one to finish does not report it.
        folders: for `{data}` and `{backbone}`.
        jobs: cells at a time.
        gpus: names of GPUs, of which each job gets one in turn; none for the CPU.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        metric: str,
        folders: Mapping[str, str],
        jobs: int,
        gpus: Sequence[str],
    ) -> None:
        self._waiting = [cell for cell in cells if cell.finished() is None]
        self._metric, self._folders = metric, folders
        self._gpus = gpus
        self._threads = max(1, cores() // jobs)
        self._free = list(range(jobs))
        self._running: dict[int, CellProcess] = {}
        self.failed: list[tuple[Cell, str]] = []

    def run(self) -> None:
        """Run until all have ended.

        `failed` then holds the cells that failed, and why. Whatever ends it early, such as a
        Ctrl-C, stops the processes that run.

        Raises:
            ConfigError: runs do not report the metric.
        """
        done, todo = 0, len(self._waiting)
        bar = tqdm(total=todo, desc="Cells", unit="cell", disable=None)
        try:
            while self._waiting or self._running:
                while self._waiting and self._free:
                    self._launch(self._waiting.pop(0), self._free.pop(0))
                # Now and then awake, so that the bar's clock goes on.
                ready = wait([run.sentinel for run in self._running.values()], timeout=1.0)
                for job, run in list(self._running.items()):
                    if run.sentinel in ready:
                        del self._running[job]
                        self._free.append(job)
                        result = self._end(run)
                        done += 1
                        line = f"[{done}/{todo}] {run.cell.name}: {result}, {run.seconds:.0f} s"
                        bar.write(line, file=sys.stderr)
                        bar.update()
                bar.refresh()
        finally:
            for run in self._running.values():
                run.stop()
            bar.close()

    def _launch(self, cell: Cell, job: int) -> None:
        gpu = self._gpus[job % len(self._gpus)] if self._gpus else None
        self._running[job] = CellProcess(cell, self._folders, gpu, self._threads)

    def _end(self, run: CellProcess) -> str:
        """Write the cell's record and return its result in words."""
        cell, problem = run.cell, ""
        if run.exitcode == 0:
            try:
                summary = json.loads((cell.folder / "summary.json").read_text("utf-8"))
            except (OSError, ValueError):
                problem = "it wrote no summary.json"
            else:
                cell.write(run.seconds, summary=summary)
                return f"{self._metric} {metric_of(summary, self._metric):.3f}"
        problem = problem or run.last_words()
        self.failed.append((cell, problem))
        cell.write(run.seconds, error=problem)
        return f"FAILED: {problem}"


def metric_of(summary: Mapping[str, Any], metric: str) -> float:
    """Return a run's metric.

    Raises:
        ConfigError: it does not report this one.
    """
    metrics = summary["metrics"]
    if metric not in metrics:
        raise ConfigError(
            f"metric is {metric!r}, but runs report {', '.join(sorted(metrics)) or 'none'}"
            f"{nearest(metric, metrics)}: name one of them; finished cells are kept"
        )
    return float(metrics[metric])


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
