"""Kills runs with SIGKILL at given batches and resumes each: `killed_runs.py FOLDER BATCH...`.

With `private NAME` after FOLDER, tensors of that name stay with the clients. Each run is a process
of its own, forked after the imports, which take most of the time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Callback

from fedtt_lightning.callbacks import Personalization
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


def main(folder: Path, batches: list[int], extra: list[Callback], **options: object) -> None:
    assert in_process(folder / "whole", folder / "whole.json", *extra, **options) == 0
    for batch in batches:
        killed = folder / f"killed-{batch}"
        killer = At(batch, kill_itself)
        status = in_process(killed, folder / "never.json", killer, *extra, **options)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert in_process(killed, folder / f"killed-{batch}.json", *extra, **options) == 0
    assert not (folder / "never.json").exists()


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    extra: list[Callback] = []
    if rest[0] == "private":
        extra, rest = [Personalization([rest[1]])], rest[2:]
    main(Path(folder), [int(batch) for batch in rest], extra)
