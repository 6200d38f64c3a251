"""Kills runs with SIGKILL at given batches and resumes each; each run is a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from toy_run import At, kill_itself, run_to_file


def in_process(*args: object, run: Callable[..., None] = run_to_file, **options: object) -> int:
    """Call `run` in a forked process and return its status as `os.waitpid` gives it."""
    pid = os.fork()
    if pid == 0:
        try:
            run(*args, **options)
        except BaseException as error:
            print(f"failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def killed_runs(folder: Path, batches: list[int], *extra: Callback, **options: Any) -> None:
    """Leave the outcome of each in `killed-BATCH.json`, and of a run that ran on in `whole.json`.

    Args:
        extra, options: as of `run_to_file`.
    """
    assert in_process(folder / "whole", folder / "whole.json", *extra, **options) == 0
    for batch in batches:
        killed = folder / f"killed-{batch}"
        killer = At(batch, kill_itself)
        status = in_process(killed, folder / "never.json", killer, *extra, **options)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert in_process(killed, folder / f"killed-{batch}.json", *extra, **options) == 0
    assert not (folder / "never.json").exists()
