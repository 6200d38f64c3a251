"""Kills runs under error feedback with SIGKILL and resumes them: `killed_upload_runs.py FOLDER
BATCH...`."""

from __future__ import annotations

import sys
from pathlib import Path

from killed_runs import main

from fedtt_lightning.federation import Int8

if __name__ == "__main__":
    folder, *batches = sys.argv[1:]
    main(Path(folder), [int(batch) for batch in batches], [], federation={"upload": Int8()})
