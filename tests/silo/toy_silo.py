"""Silos of the toy run, each a process of its own, forked after the imports, which take longest.

As a script it reads a JSON object a line, starts a silo or waits for one, and prints a number.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

TESTS = Path(__file__).parents[1]
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class ForkedSilos:
    """Starts silos, and lets none outlive it."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, folder: Path, **options: Any) -> int:
        """Start a silo, see `run_silo`, whose words go to `folder/log`; return its process id."""
        return self._tell({"folder": str(folder), **options})

    def wait(self, pid: int, seconds: float = 20) -> int:
        """Return the exit code of a silo, or minus the signal that ended it."""
        return self._tell({"wait": pid, "seconds": seconds})

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def _tell(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def run_silo(
    folder: Path,
    socket: str,
    client: int = 1,
    clients: int = 4,
    own: bool = False,
    private: bool = False,
    upload: bool = False,
    kill: tuple[str, int] | None = None,
    **settings: Any,
) -> None:
    """Fit one client of the toy run as a silo.

    Args:
        own: the silo's data are its client's part of the toy's, and no others.
        private: with LocalDP.
        upload: with error feedback.
        kill: the round in which the process is killed, in its `visit` or before its `answer`.
        settings: of SiloSettings.
    """
    from fedtt_lightning import FederatedDataModule
    from fedtt_lightning.federation import Int8, UniformSampler
    from fedtt_lightning.silo.silo_exchange import SiloExchange
    from fedtt_lightning.silo.silo_settings import SiloSettings
    from private_run import private_run
    from silo.own_data import PartOfToyData
    from toy_run import At, kill_itself, make_run

    class Killed(SiloExchange):
        def share(self, trainer: Any, plan: Any) -> Any:
            if kill == ["answer", plan.round - 1]:
                kill_itself(trainer)
            return super().share(trainer, plan)

    extra = []
    if kill is not None and kill[0] == "visit":
        extra = [At(6 * kill[1] + 2, kill_itself)]  # of 6 batches a visit
    federation = {"sampler": UniformSampler(), "upload": Int8() if upload else None}
    build = private_run if private else make_run
    trainer, module, data, _ = build(folder, *extra, federation=federation)
    if own:
        data = FederatedDataModule(PartOfToyData(client), clients=1)
    exchange = Killed(SiloSettings(client, clients, socket, **settings))
    trainer.callbacks.insert(0, exchange)
    trainer.fit(module, datamodule=data, ckpt_path="last")


def _child(order: dict[str, Any]) -> None:
    from fedtt_lightning.errors import FedTTError

    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    folder = Path(order.pop("folder"))
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        run_silo(folder, **order)
    except FedTTError as error:
        print(f"error: {error}", flush=True)
        os._exit(2)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        print(f"failed: {error!r}", flush=True)
        os._exit(1)
    os._exit(0)


def _wait(pid: int, seconds: float) -> int:
    end = monotonic() + seconds
    while monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        sleep(0.02)
    return -999


def _main() -> None:
    import private_run  # noqa: F401
    import toy_run  # noqa: F401
    from fedtt_lightning.silo import silo_exchange  # noqa: F401
    from silo import own_data  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(_wait(order["wait"], order["seconds"]), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            _child(order)


if __name__ == "__main__":
    _main()
