"""What comes before training: `--help`, and the start of `fit` beyond imports.

    python benchmarks/start.py

`python -m fedtt_lightning --help` against `python -c "import torch"`, processes in turns, CPU time.
The start of `fit` is the time from the call of Trainer.fit to the first batch, in a process whose
imports are done: 10 clients, partition, checks, planning, an encoder of 2 layers × 128.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

from federated_round import data, module
from timing import Row, main, ratio


def measure(repeats: int) -> list[Row]:
    def child(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    times: dict[str, list[float]] = {"help": [], "torch": []}
    for _ in range(repeats):
        times["help"].append(child("-m", "fedtt_lightning", "--help"))
        times["torch"].append(child("-c", "import torch"))
    what = "python -m fedtt_lightning --help"
    rows = [ratio(times, "help", "torch", what, 'python -c "import torch"', 0.5)]
    begun = [start_of_fit() for _ in range(repeats)]
    low, middle, high = statistics.quantiles(begun, n=4)
    rows.append(Row("start of fit beyond imports", "–", middle, low, high, 2.0, "s"))
    return rows


def start_of_fit() -> float:
    """Return seconds from the call of fit to its first batch."""
    from lightning.pytorch import Callback, Trainer

    from fedtt_lightning import FederatedRounds

    first: list[float] = []

    class Stop(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            if not first:
                first.append(time.perf_counter())

    with TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=1,
            accelerator="cpu",
            callbacks=[FederatedRounds(), Stop()],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        )
        built, clients = module(), data(8)
        start = time.perf_counter()
        trainer.fit(built, datamodule=clients)
    return first[0] - start


if __name__ == "__main__":
    main(__doc__, measure, repeats=7)
