"""Starts the processes of a run as a cluster's launcher would, so that none outlives its test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def launch(script: str, *arguments: str, processes: int = 2, timeout: float = 200) -> None:
    """Run a script of the tests in processes that find each other, and see that all succeed."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    # Below the range from which systems hand out ports, so that nobody else has it by chance.
    port = str(20000 + os.getpid() % 10000)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MASTER_PORT": port}
    command = [sys.executable, str(TESTS / script), *arguments]
    ranks = [
        subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    try:
        assert [rank.wait(timeout=timeout) for rank in ranks] == [0] * processes
    finally:
        for rank in ranks:
            rank.kill()
