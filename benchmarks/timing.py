"""Measurements as rows of one table: ratios of cases that take turns, each turn a pair."""

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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_WARM_UP = 3
_PACKAGES = ("torch", "transformers", "lightning", "peft", "opacus")
_PEERS = ("tensorly-torch", "pfl", "flwr", "ray")


@dataclass(frozen=True)
class Row:
    """What was measured: a median and where the middle half of the measurements lies.

    Attributes:
        value: a ratio to what it is compared with, or a number of `unit`.
        bar: the limit that the project sets itself, None where there is none; a `least` one is not
            to be fallen short of, others are not to be exceeded.
        detail: the measurements behind a ratio, in words.
    """

    what: str
    against: str
    value: float
    low: float
    high: float
    bar: float | None = None
    unit: str = "×"
    least: bool = False
    detail: str = ""

    @property
    def met(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value >= self.bar if self.least else self.value <= self.bar


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
) -> Row:
    """Compare the times of two cases turn by turn."""
    pairs = [a / b for a, b in zip(times[case], times[base], strict=True)]
    low, middle, high = statistics.quantiles(pairs if len(pairs) > 1 else 2 * pairs, n=4)
    ours, theirs = statistics.median(times[case]), statistics.median(times[base])
    detail = f"{1e3 * ours:.1f} / {1e3 * theirs:.1f} ms"
    return Row(what, against, middle, low, high, bar, detail=detail)


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
        **{package: _version_if_installed(package) for package in _PEERS},
    }


def _version_if_installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        "| what | compared with | median (middle half) | bar | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        bar = "–"
        if row.bar is not None:
            bar = f"{'≥' if row.least else '≤'} {row.bar:g}{'' if row.met else ' missed'}"
        unit = "" if row.unit == "×" else f" {row.unit}"
        value = f"{row.value:.3f}{unit} ({row.low:.3f}–{row.high:.3f})"
        lines.append(f"| {row.what} | {row.against} | {value} | {bar} | {row.detail} |")
    return "\n".join(lines)


def main(description: str | None, measure: Callable[[int], list[Row]], repeats: int) -> None:
    """Run a benchmark from the command line: print its table, and write it where asked to."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="turns of each case")
    parser.add_argument("--json", type=Path, help="file for the numbers, with the machine")
    args = parser.parse_args()
    report(measure(args.repeats), args.json)


def report(rows: Sequence[Row], file: Path | None) -> None:
    """Print rows and the machine, and write them as JSON if asked to."""
    about = machine()
    print(markdown(rows))
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    if file is not None:
        record = {"machine": about, "rows": [asdict(row) for row in rows]}
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(file)
