"""Processes of a run, forked after the imports, which take longest; none outlives its test."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from time import monotonic
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "fedtt_lightning.callbacks",
        "fedtt_lightning.cli",
        "fedtt_lightning.strategies",
        "opacus.accountants",
        "opacus.optimizers",
    ]
)


def launch(
    function: Callable[..., None], *arguments: Any, processes: int = 1, **options: Any
) -> list[int | None]:
    """Call a function of a module in processes that find each other, as on a cluster.

    Returns:
        Their exit codes, or minus the signal that ended them; None of who takes over 240 seconds.
    """
    # Below the range from which systems hand out ports, so that nobody else has it by chance.
    variables = {"MASTER_PORT": str(20000 + os.getpid() % 10000)}
    ranks = []
    try:
        for rank in range(processes):
            if processes > 1:
                variables = {**variables, "LOCAL_RANK": str(rank)}
            call = (variables, function, arguments, options)
            ranks.append(_FORKS.Process(target=_call, args=call, daemon=True))
            ranks[-1].start()
        end = monotonic() + 240
        for process in ranks:
            process.join(max(0.0, end - monotonic()))
        return [process.exitcode for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.join()


def run_command(folder: Path, args: list[str]) -> None:
    """Do `python -m fedtt_lightning` in a launched process; what it says is in `said-RANK`."""
    from fedtt_lightning.__main__ import main

    said = (folder / f"said-{os.environ.get('LOCAL_RANK', 0)}").open("w", buffering=1)
    with redirect_stdout(said), redirect_stderr(said):
        code = main(args)
    sys.exit(code)


def _call(
    variables: dict[str, str], function: Callable[..., None], arguments: Any, options: Any
) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(230, exit=True)  # says where a process hangs
    function(*arguments, **options)
