"""The cells of a study side by side: what is finished is kept, what fails is told at the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from tqdm import tqdm

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cell_process import CellProcess, stop
from fedtt_lightning.studies.cells import Cell
from fedtt_lightning.studies.scores import score, without_metric


class StudyRunner:
    """Runs the cells that have not finished, as many at a time as there are jobs.

    Args:
        cells: of the whole study.
        mine: those to run, in the order in which they are started.
        metric: shown of each cell; the study stops if none that has finished reports it.
        jobs: cells at a time.
        gpus: names of GPUs, of which each job gets one in turn; none for the CPU.

    Attributes:
        failed: the cells that have failed in this run, and why.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        mine: Sequence[Cell],
        metric: str,
        jobs: int,
        gpus: Sequence[str],
    ) -> None:
        self._cells, self._metric, self._gpus = cells, metric, gpus
        self._waiting = [cell for cell in mine if cell.finished() is None]
        for cell in self._waiting:
            cell.check_folder()
        self._before = len(mine) - len(self._waiting)
        self._threads = max(1, cores() // jobs)
        self._free = list(range(jobs))
        self._running: dict[int, CellProcess] = {}
        self.failed: list[tuple[Cell, str]] = []

    def run(self) -> None:
        """Run until all have ended.

        Whatever ends it early, such as a Ctrl-C, stops the processes that run.

        Raises:
            ConfigError: cells have finished, and none reports the metric.
        """
        done, todo = 0, len(self._waiting)
        print(f"{todo} cells to run, {self._before} finished before", file=sys.stderr)
        if not todo:
            return
        bar = tqdm(total=todo, desc="Cells", unit="cell", disable=None)
        try:
            while self._waiting or self._running:
                ended = []
                while self._waiting and self._free:
                    ended += self._launch(self._waiting.pop(0))
                # Now and then awake, so that the bar's clock goes on.
                ready = wait([run.sentinel for run in self._running.values()], timeout=1.0)
                for job, run in list(self._running.items()):
                    if run.sentinel in ready:
                        del self._running[job]
                        self._free.append(job)
                        ended.append((run.cell, f"{self._end(run)}, {run.seconds:.0f} s"))
                for cell, result in ended:
                    done += 1
                    bar.write(f"[{done}/{todo}] {cell.name}: {result}", file=sys.stderr)
                    bar.update()
                bar.refresh()
        finally:
            stop([*self._running.values()])
            bar.close()

    def _launch(self, cell: Cell) -> list[tuple[Cell, str]]:
        """Start a cell; return it with its result in words if it cannot be started."""
        job = self._free[0]
        gpu = self._gpus[job % len(self._gpus)] if self._gpus else None
        try:
            self._running[job] = CellProcess(cell, gpu, self._threads)
        except (ConfigError, OSError) as error:  # a config that has become no YAML, a full disk
            return [(cell, self._fail(cell, str(error)))]
        del self._free[0]
        return []

    def _end(self, run: CellProcess) -> str:
        """Write the cell's record and return its result in words."""
        cell, problem = run.cell, ""
        if run.exitcode == 0:
            try:
                summary = json.loads((cell.folder / "summary.json").read_text("utf-8"))
            except (OSError, ValueError):
                problem = "it wrote no summary.json"
            else:
                run.write(summary=summary)
                return self._result(summary)
        problem = problem or run.last_words()
        run.write(error=problem)
        return self._fail(cell, problem)

    def _fail(self, cell: Cell, problem: str) -> str:
        self.failed.append((cell, problem))
        return f"FAILED: {problem}"

    def _result(self, summary: Mapping[str, Any]) -> str:
        value = score(summary, self._metric)
        if value is None:
            without_metric(self._cells, self._metric)  # which raises if no cell has it
            return f"no {self._metric}"
        return f"{self._metric} {value:.3f}"


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
