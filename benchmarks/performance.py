"""All measurements of speed, memory and bytes as one table, each in a process of its own.

    python benchmarks/performance.py                      # minutes; best on an idle machine
    python benchmarks/performance.py --only adapter upload --json performance.json

One file a subject; `python benchmarks/NAME.py` measures it alone. Ratios are medians of turns in
one process, so other work on the machine matters less than it does for times, but it does matter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from timing import Row, report

HERE = Path(__file__).parent
SUBJECTS = (
    "adapter",
    "activations",
    "training_step",
    "compiled_step",
    "federated_round",
    "peer_rounds",
    "between_clients",
    "process_memory",
    "start",
    "data",
    "aggregation",
    "upload",
    "private_adapter",
    "private_step",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--repeats", type=int, help="turns of each case, in place of each file's")
    parser.add_argument("--json", type=Path, help="file for the numbers, with the machine")
    args = parser.parse_args()
    rows, failed = [], []
    with TemporaryDirectory() as folder:
        for number, subject in enumerate(args.only, 1):
            print(f"[{number}/{len(args.only)}] {subject}", file=sys.stderr, flush=True)
            file = Path(folder) / f"{subject}.json"
            command = [sys.executable, "-W", "ignore", str(HERE / f"{subject}.py")]
            command += ["--json", str(file)]
            if args.repeats is not None:
                command += ["--repeats", str(args.repeats)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                failed.append(subject)
                reason = done.stderr.strip() or f"exit status {done.returncode}"
                print(reason.splitlines()[-1], file=sys.stderr, flush=True)
                continue
            rows += [Row(**row) for row in json.loads(file.read_text())["rows"]]
    report(rows, args.json)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; run each alone to see why")


if __name__ == "__main__":
    main()
