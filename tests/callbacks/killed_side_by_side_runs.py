"""Kills runs of clients side by side with SIGKILL and resumes them:
`killed_side_by_side_runs.py FOLDER BATCH...`."""

from __future__ import annotations

import sys
from pathlib import Path

from killed_runs import main

if __name__ == "__main__":
    folder, *batches = sys.argv[1:]
    main(Path(folder), [int(batch) for batch in batches], [], federation={"cohort_batch": 2})
