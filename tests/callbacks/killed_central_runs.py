"""Kills centrally private runs inside a round and resumes each: `killed_central_runs.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import opacus.accountants  # noqa: F401  before the forks: it takes seconds

from callbacks.killed_runs import main
from central_run import BITS, HIDDEN, KNOWN
from fedtt_lightning.callbacks import CentralDP
from fedtt_lightning.federation import FedAdam, FixedPointCodec, PrivateMean

# At the first batch after the round of nobody; where two of three clients have added their share.
CASES = {
    "poisson": (4, {**HIDDEN, "aggregation": PrivateMean(**BITS), "server": FedAdam(0.1)}),
    "shares": (13, {**KNOWN, "aggregation": PrivateMean(codec=FixedPointCodec(), **BITS)}),
}

if __name__ == "__main__":
    for name, (batch, federation) in CASES.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        dp = CentralDP(epsilon=30.0, noise_multiplier=1.0)
        main(folder, [batch], [dp], federation=federation)
