"""Processes of one machine, forked after the imports, which take longest.

As a script it reads a JSON object a line, starts a process or waits for one, and prints a number.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from fedtt_lightning.silo.direct_transport import DirectTransport

_TESTS = Path(__file__).parents[1]
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_RUNS = -999


def wait_for(socket: str) -> None:
    """Return when somebody listens on a socket."""
    end, silo = monotonic() + 120, DirectTransport([socket], 0)
    while not silo.nodes():
        assert monotonic() < end
        sleep(0.02)


class Forks:
    """Starts functions as processes, and lets none outlive it.

    Args:
        modules: what is imported before.
    """

    def __init__(self, *modules: str) -> None:
        path = os.pathsep.join([str(_TESTS), str(_TESTS.parent / "src")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, function: str, folder: Path, **arguments: Any) -> int:
        """Call `module:name` with a folder and more; return its process's id.

        Its words go to `folder/log`.
        """
        return self._tell({"function": function, "folder": str(folder), "arguments": arguments})

    def wait(self, pid: int, seconds: float = 120) -> int:
        """Return the exit code of a process, or minus the signal that ended it."""
        code = self._tell({"wait": pid, "seconds": seconds})
        assert code != _RUNS, f"process {pid} has not ended within {seconds} s"
        return code

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def _tell(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def run_command(folder: Path, args: list[str], cwd: str = ".") -> int:
    """Run `python -m fedtt_lightning` in the folder `cwd`."""
    from fedtt_lightning.__main__ import main

    os.chdir(cwd)
    return main(args)


def _child(order: dict[str, Any]) -> None:
    from fedtt_lightning.errors import FedTTError

    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    folder = Path(order["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    module, name = order["function"].split(":")
    code = 1
    try:
        code = getattr(import_module(module), name)(folder, **order["arguments"]) or 0
    except FedTTError as error:
        print(f"error: {error}")
        code = 2
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int, seconds: float) -> int:
    end = monotonic() + seconds
    while monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        sleep(0.02)
    return _RUNS


def _main() -> None:
    for module in sys.argv[1:]:
        import_module(module)
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
