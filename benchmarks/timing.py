"""Ratios of running times: cases take turns in one process, and each turn is a pair."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

_WARM_UP = 3
_PACKAGES = ("torch", "transformers", "lightning", "peft", "opacus")


@dataclass(frozen=True)
class Ratio:
    """A case's time over another's: the median of turns, and where half of them lie.

    Attributes:
        bar: the limit that the project sets itself, None where there is none.
    """

    what: str
    against: str
    bar: float | None
    median: float
    low: float
    high: float
    milliseconds: float
    against_milliseconds: float


def take_turns(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return each case's CPU seconds, turn by turn, after some turns to warm up.

    CPU time of the process on one thread: what else a machine does in the meantime plays less part.
    """
    import torch

    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in cases}
    gc.collect()
    gc.disable()
    try:
        for turn in range(_WARM_UP + repeats):
            for name, case in cases.items():
                start = time.process_time()
                case()
                if turn >= _WARM_UP:
                    times[name].append(time.process_time() - start)
    finally:
        gc.enable()
    return times


def ratio(
    times: Mapping[str, Sequence[float]],
    case: str,
    base: str,
    what: str,
    against: str,
    bar: float | None = None,
) -> Ratio:
    """Compare two cases turn by turn."""
    pairs = [a / b for a, b in zip(times[case], times[base], strict=True)]
    low, _, high = statistics.quantiles(pairs, n=4)
    return Ratio(
        what,
        against,
        bar,
        statistics.median(pairs),
        low,
        high,
        1e3 * statistics.median(times[case]),
        1e3 * statistics.median(times[base]),
    )


def machine() -> dict[str, Any]:
    """Return what the times were measured with."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


def markdown(rows: Sequence[Ratio]) -> str:
    lines = [
        "| what | compared with | ratio (half of the turns) | bar | ms |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        bar = "–" if row.bar is None else f"≤ {row.bar:.2f}"
        spread = f"{row.median:.3f} ({row.low:.3f}–{row.high:.3f})"
        times = f"{row.milliseconds:.1f} / {row.against_milliseconds:.1f}"
        lines.append(f"| {row.what} | {row.against} | {spread} | {bar} | {times} |")
    return "\n".join(lines)


def main(description: str | None, measure: Callable[[int], list[Ratio]], repeats: int) -> None:
    """Run a benchmark from the command line: print its table, and write it where asked to."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="turns of each case")
    parser.add_argument("--json", type=Path, help="file for the numbers, with the machine")
    args = parser.parse_args()
    rows = measure(args.repeats)
    about = machine()
    print(markdown(rows))
    print(", ".join(f"{name} {value}" for name, value in about.items()) + ", one thread")
    if args.json is not None:
        record = {"machine": about, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(record, indent=1) + "\n")
