"""The process of one cell: `fit`, with a log of its own, which never outlives the study."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import Any

from fedtt_lightning.studies.cells import Cell

_PATIENCE = 5.0  # seconds a run has to end by itself


class CellProcess:
    """Runs a cell until it ends or is stopped.

    Processes are forked from one that has imported what all need, which takes seconds and is so
    paid once. (Where a system cannot fork, each imports it itself.)

    Args:
        cell: what to run; it goes on from its last checkpoint if an earlier run was interrupted.
        gpu: as CUDA_VISIBLE_DEVICES names it, None to leave that as it is.
        threads: of the process, unless OMP_NUM_THREADS says how many.
    """

    def __init__(self, cell: Cell, gpu: str | None, threads: int) -> None:
        self.cell = cell
        self._key = cell.key()  # a config that changes while the cell runs is not what it ran with
        arguments = cell.arguments()
        if resumes := cell.resumes():
            arguments += ["--ckpt_path", "last"]
        else:
            cell.clear()
        record = cell.record()
        self._before = record["seconds"] if resumes and record is not None else 0.0
        cell.write(self._before, key=self._key)
        self._process = _context().Process(
            target=_fit, args=(arguments, cell.log.resolve(), Path.cwd(), gpu, threads)
        )
        self._process.start()
        self._start = monotonic()  # the first one has waited for the imports

    @property
    def sentinel(self) -> int:
        """What `multiprocessing.connection.wait` waits for: ready when the process has ended."""
        return int(self._process.sentinel)

    @property
    def exitcode(self) -> int | None:
        """The exit code of the process, -n if signal n ended it, None while it runs."""
        code: int | None = self._process.exitcode
        return code

    @property
    def seconds(self) -> float:
        """Time that the cell has taken so far, with that of the run it goes on from."""
        return self._before + monotonic() - self._start

    def last_words(self) -> str:
        """Return what the run said when it failed: its error, or its last line."""
        if self.exitcode is not None and self.exitcode < 0:
            name = signal.Signals(-self.exitcode).name
            return f"ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        lines = self.cell.log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        errors = [line for line in said if line.startswith("error: ")]
        return (errors or said or ["it printed nothing"])[-1].removeprefix("error: ")

    def write(self, summary: Mapping[str, Any] | None = None, error: str | None = None) -> None:
        """Write the cell's record, of what it was when it was started."""
        self.cell.write(self.seconds, summary, error, self._key)

    def signal(self, number: int) -> None:
        """Send a signal to the process and those it has started, if it has not ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def join(self, seconds: float | None = None) -> None:
        """Wait until the process has ended, or for as long."""
        self._process.join(seconds)


def stop(runs: Sequence[CellProcess]) -> None:
    """End processes and those they have started, all at once, and keep the time that they took."""
    with _uninterrupted():  # by a second Ctrl-C
        for run in runs:
            run.signal(signal.SIGTERM)
        end = monotonic() + _PATIENCE
        for run in runs:
            run.join(max(0.0, end - monotonic()))
        for run in runs:
            run.signal(signal.SIGKILL)
            run.join()
            run.write()


def _context() -> Any:
    """Return what starts processes: where they can be forked, by a server that is running then."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedtt_lightning.cli"])
    with _uninterrupted():  # which the server keeps, so that a Ctrl-C is for the study alone
        forkserver.ensure_running()
    return context


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore a Ctrl-C; so do processes that are started in this block, for as long as they live."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _fit(arguments: list[str], log: Path, cwd: Path, gpu: str | None, threads: int) -> None:
    os.setsid()  # so that it is stopped with all that it has started
    threading.Thread(target=_end_with_parent, daemon=True).start()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(cwd)
    # A forked process is told its parent's: the run is to record the command that repeats it.
    sys.orig_argv = [sys.executable, "-m", "fedtt_lightning", *arguments]
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    from fedtt_lightning.cli import main

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    sys.exit(main(arguments))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)
