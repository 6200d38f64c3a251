"""Kills private runs at given batches and resumes each: `killed_private_runs.py FOLDER BATCH...`.

The folder holds a file `secret`, which keys the noise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import opacus.optimizers  # noqa: F401  before the forks: it takes seconds

from callbacks.killed_runs import main
from private_run import private_run_to_file

if __name__ == "__main__":
    folder, *batches = sys.argv[1:]
    dp = {"epsilon": 22.0, "accountant": "gdp", "secret_file": str(Path(folder) / "secret")}
    main(Path(folder), [int(batch) for batch in batches], [], run=private_run_to_file, dp=dp)
